"""What many tests share: a small random model made here, and the embedded base, each made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this test run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def random_base(shared_folder: Path) -> Path:
    """A Llama of two layers with random weights, a byte-level tokenizer and a template with generation marks."""
    folder = shared_folder / "random-base"
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            from tests.finetune.small_models import make_random_base

            make_random_base(folder)
    return folder


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with large random weights, so that each prompt has its own answer and none repeats one token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.finetune.small_models import make_tokenizer

    folder = tmp_path_factory.mktemp("lively")
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(shared_folder: Path) -> Path:
    """The embedded base `builtin:tiny` as a user gets it; its pre-training takes about a minute."""
    from llmops.builtin.bases import base

    cache = Path(os.environ["LLMOPS_TEST_CACHE"]) if "LLMOPS_TEST_CACHE" in os.environ else shared_folder / "cache"
    return base("tiny", cache=cache)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a real PostgreSQL, one for each worker."""
    from tests.postgresql_server import postgresql_server, programs

    if programs() is None:
        missing = "no PostgreSQL in /usr/lib/postgresql: run `make debian`"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with postgresql_server() as address:
        yield address


@pytest.fixture
def postgresql_database(postgresql: str) -> str:
    """The URL of a new, empty database, as people write it."""
    import psycopg

    name = f"test_{uuid4().hex}"
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    return f"{postgresql}/{name}"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, and the repository as the current folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(REPOSITORY)
    return home
