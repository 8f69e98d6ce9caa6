"""What many tests share: a small random model, an MLflow store and a PostgreSQL, each made once; a workspace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from llmops.workspace import Workspace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# A busy machine makes any example late, which says nothing of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

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
def migrated(shared_folder: Path) -> Path:
    """An empty MLflow store in a file; making one takes two seconds, copying it none."""
    from llmops.registry.connection import connect

    database = shared_folder / "mlflow.db"
    connect(f"sqlite:///{database}")  # who comes second waits and finds it made
    return database


@pytest.fixture(scope="session")
def make_workspace(migrated: Path) -> Callable[[Path], Workspace]:
    """Call it with the folder that becomes a workspace with an empty MLflow store."""

    def make(home: Path) -> Workspace:
        home.mkdir(parents=True)
        shutil.copy(migrated, home / "mlflow.db")
        return Workspace(home)

    return make


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


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Workspaces have their database in a file, and then on a server; which of them it is."""
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    if request.param == "postgresql":
        monkeypatch.setenv("LLMOPS_DATABASE_URL", request.getfixturevalue("postgresql_database"))
    return str(request.param)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread, here and in processes that are started: the same sums in the same order."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small_vllm_cache() -> Iterator[None]:
    """A gigabyte for keys and values: filling the several that llmops takes where they are free takes ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, and the repository as the current folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(REPOSITORY)
    return home


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with large random weights, so that each prompt has its own answer and none repeats one token."""
    from tests.eval.lively_models import small_llama

    return small_llama(tmp_path_factory.mktemp("lively"), hidden=32, spread=0.5)
