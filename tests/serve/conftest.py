"""Engines without vLLM: an interpreter that stands in for it, and models small enough to write by hand."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from llmops.workspace import Workspace
from tests.listener import Heard
from tests.serve.stand_in import MakeModel, Vllm

FAKE = Path(__file__).with_name("fake_vllm.py")


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vllm:
    steer = tmp_path / "steer"
    steer.mkdir()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {FAKE} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("FAKE_VLLM", str(steer))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Vllm(python, steer)


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes a whole model, or an adapter on the `base`; `value` makes its bytes differ."""

    def make(name: str, *, base: Path | None = None, value: float = 1.0, rank: int = 8) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
        weights = struct.pack("<Q", len(header)) + header + struct.pack("<f", value)
        if base is not None:
            config = {"base_model_name_or_path": str(base), "r": rank, "lora_alpha": 8}
            (folder / "adapter_config.json").write_text(json.dumps(config))
            (folder / "adapter_model.safetensors").write_bytes(weights)
            return folder
        shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 128}
        (folder / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": 128}))
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return make


@pytest.fixture
def heard() -> Heard:
    return Heard()
