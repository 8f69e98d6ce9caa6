"""Requests for quantized models of a small Llama, and the tensors in what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmops.files import folder_digest
from llmops.quantize.calibration import from_file
from llmops.quantize.run import Quantized, Request, quantize
from llmops.records import ModelSource
from llmops.workspace import Workspace
from tests.listener import Heard

ROWS = [{"prompt": f"what is {number}?", "completion": f"it is {number * 7}"} for number in range(24)]


def write_rows(file: Path) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in ROWS))
    return file


def make(
    model: Path, scheme: str, out: Path, *, iters: int = 0, rows: Path | None = None, heard: Heard | None = None
) -> Quantized:
    source = None if rows is None else from_file(rows)
    request = Request(scheme, "0" * 64, folder_digest(model), iters, 8, 1, source)
    whole = ModelSource("small", model, None, folder_digest(model))
    heard = heard or Heard()
    made = quantize(request, whole, out=out, workspace=Workspace(out.parent / "home"), listener=heard)
    assert not heard.steps, "nothing is trained"
    return made


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def unpacked(made: dict[str, Any], layer: str, column: int) -> list[float]:
    """One output's weights from GPTQ's layout, bit by bit: eight inputs in an int32, the lowest bits first."""
    packed = [int(word) & 0xFFFFFFFF for word in made[f"{layer}.qweight"][:, column]]
    zeros, scales = made[f"{layer}.qzeros"], made[f"{layer}.scales"]
    found = []
    for place in range(8 * len(packed)):
        value = packed[place // 8] >> (4 * (place % 8)) & 0xF
        group = place // 128
        # The format keeps zero points less one.
        zero = ((int(zeros[group, column // 8]) & 0xFFFFFFFF) >> (4 * (column % 8)) & 0xF) + 1
        found.append((value - zero) * float(scales[group, column]))
    return found


def unpacked_model(model: Path, quantized: Path) -> Any:
    """The model as its packed weights say, in 32 bits, for transformers."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    found = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    found.generation_config = GenerationConfig()  # that of the model does not pass the library's check on saving
    state, made = dict(found.state_dict()), tensors(quantized)
    for name in [name.removesuffix(".qweight") for name in made if name.endswith(".qweight")]:
        columns = state[f"{name}.weight"].shape[0]
        state[f"{name}.weight"] = torch.tensor([unpacked(made, name, column) for column in range(columns)])
    found.load_state_dict(state)
    return found
