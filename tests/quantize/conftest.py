"""One small model in bf16, and what each scheme makes of it: a process of several seconds each, once a session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmops.quantize.run import Quantized
from tests.eval.lively_models import small_llama
from tests.listener import Heard
from tests.quantize.made import make, write_rows


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hidden 128 and intermediate 256, which a group of 128 divides; weights in bf16, as models are published."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = small_llama(tmp_path_factory.mktemp("float32"))
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_pretrained(first, dtype="bfloat16").save_pretrained(folder)
    AutoTokenizer.from_pretrained(first).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1], "temperature": 0.5}))
    return folder


@pytest.fixture(scope="session")
def nearest(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    return make(model, "w4a16", tmp_path_factory.mktemp("nearest") / "artifact")


@pytest.fixture(scope="session")
def heard() -> Heard:
    """What the making of `tuned` said."""
    return Heard()


@pytest.fixture(scope="session")
def tuned(model: Path, heard: Heard, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder = tmp_path_factory.mktemp("tuned")
    rows = write_rows(folder / "rows.jsonl")
    return make(model, "w4a16", folder / "artifact", iters=20, rows=rows, heard=heard)
