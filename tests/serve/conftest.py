"""Engines without vLLM: an interpreter that stands in for it, and models small enough to write by hand."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmops.serve.settings import Gateway
from llmops.workspace import Workspace

FAKE = Path(__file__).with_name("fake_vllm.py")
MakeModel = Callable[..., Path]


@dataclass
class Vllm:
    """The interpreter to name as `python:`, and the folder that steers it."""

    python: Path
    steer: Path

    def starts(self) -> list[dict[str, Any]]:
        """What it was started with, each time."""
        file = self.steer / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def processes(self) -> list[int]:
        """Every process it ever was."""
        file = self.steer / "children"
        return [int(one) for one in file.read_text().split()] if file.exists() else []

    def gateway(self, engines: dict[str, dict[str, Any]], **more: Any) -> Gateway:
        """Settings with these engines, run by this interpreter."""
        local = {"python": str(self.python), "max_length": 64, "restart": {"first_wait_s": 0.05, "attempts": 3}}
        every = {name: (local | one if "url" not in one else one) for name, one in engines.items()}
        routes = {name: {"policy": "direct", "engine": name} for name in engines}
        return Gateway.model_validate({"engines": every, "routes": routes, "listen": "127.0.0.1:0", **more})


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


@dataclass
class Heard:
    """A listener that remembers."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, what: str, done: int, total: int | None) -> None:
        pass

    def step(self, step: Any, total: int) -> None:
        pass


@pytest.fixture
def heard() -> Heard:
    return Heard()
