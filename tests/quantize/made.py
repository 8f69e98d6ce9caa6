"""Requests for quantized models of a small Llama, and the tensors in what comes out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.files import folder_digest
from llmops.quantize.calibration import from_file
from llmops.quantize.run import Quantized, Request, quantize
from llmops.records import ModelSource, Step
from llmops.workspace import Workspace


@dataclass
class Heard:
    lines: list[str] = field(default_factory=list)
    advances: list[tuple[str, int, int | None]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, what: str, done: int, total: int | None) -> None:
        self.advances.append((what, done, total))

    def step(self, step: Step, total: int) -> None:
        raise AssertionError("nothing is trained")


def write_rows(file: Path) -> Path:
    lines = [{"prompt": f"what is {number}?", "completion": f"it is {number * 7}"} for number in range(24)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def make(
    model: Path, scheme: str, out: Path, *, iters: int = 0, rows: Path | None = None, heard: Heard | None = None
) -> Quantized:
    source = None if rows is None else from_file(rows)
    request = Request(scheme, "0" * 64, folder_digest(model), iters, 8, 1, source)
    whole = ModelSource("small", model, None, folder_digest(model))
    return quantize(request, whole, out=out, workspace=Workspace(out.parent / "home"), listener=heard or Heard())


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))
