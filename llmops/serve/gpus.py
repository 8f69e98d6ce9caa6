"""Which GPUs each server gets, and whether a model fits on them: told from its files, before anything is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault
from llmops.hardware import Gpu

UTILIZATION = 0.9
"""Share of a GPU's memory that a server takes where `vllm.gpu_memory_utilization` does not say it."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a whole model takes of memory.

    Attributes:
        weights: bytes, as they are held when served: 32-bit ones in 16 bits unless asked otherwise.
        per_token: bytes of keys and values of one token in all layers, in 16 bits.
        context: tokens it was made for; None where its configuration does not say.
    """

    weights: int
    per_token: int
    context: int | None

    def needed(self, tokens: int) -> int:
        """Bytes for the weights, and for one request of `tokens` tokens: the least that can serve."""
        return self.weights + self.per_token * tokens


@dataclass(frozen=True, slots=True)
class Ask:
    """GPUs that one server wants: `gpus` of them, of each the `share` of its memory (0 to 1)."""

    server: str
    gpus: int
    share: float


def footprint(folder: Path, *, wide: bool = False) -> Footprint:
    """What the model in a folder takes, from the headers of its files.

    Args:
        wide: 32-bit weights are held in 32 bits (`dtype: float32`).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    weights = sum(_held(path, wide=wide) for path in folder.glob("*.safetensors"))
    return Footprint(weights, _per_token(text), text.get("max_position_embeddings"))


def _held(path: Path, *, wide: bool) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        total += (end - begin) // (2 if entry["dtype"] == "F32" and not wide else 1)
    return total


def _per_token(config: Mapping[str, Any]) -> int:
    """Bytes of keys and values of one token: two vectors a layer, or one compressed one (DeepSeek's latent)."""
    layers = int(config.get("num_hidden_layers") or 0)
    if config.get("kv_lora_rank"):
        return 2 * layers * (int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0))
    heads = int(config.get("num_attention_heads") or 1)
    width = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    return 2 * 2 * layers * int(config.get("num_key_value_heads") or heads) * width


def assign(asks: Sequence[Ask], gpus: Sequence[Gpu], taken: Mapping[int, float]) -> list[tuple[int, ...]]:
    """GPU numbers for each ask, in order, each on the GPUs that are fullest and still have its share.

    Args:
        taken: the share of each GPU that running servers have.

    Raises:
        EnvironmentFault: there are too few; says how many are wanted and how to make do.
    """
    used = {number: taken.get(number, 0.0) for number in range(len(gpus))}
    found: list[tuple[int, ...]] = []
    for ask in asks:
        fits = [number for number in used if used[number] + ask.share <= 1.0 + 1e-9]
        chosen = sorted(sorted(fits, key=lambda number: (-used[number], number))[: ask.gpus])
        if len(chosen) < ask.gpus:
            wanted = sum(one.gpus * one.share for one in asks) + sum(taken.values())
            raise EnvironmentFault(
                f"the engines want {math.ceil(wanted - 1e-9)} GPUs, there are {len(gpus)}: none is left for "
                f"{ask.server}",
                fix="lower `replicas` or `gpus`, or let engines share a GPU by stating each one's share of its memory: "
                "`vllm: {gpu_memory_utilization: 0.45}`",
            )
        for number in chosen:
            used[number] += ask.share
        found.append(tuple(chosen))
    return found


def check_fits(server: str, model: Footprint, tokens: int, on: Sequence[Gpu], *, utilization: float) -> None:
    """Refuse a model that cannot fit: only what is certain, so nothing that would have worked is refused.

    Args:
        tokens: of the longest request.

    Raises:
        EnvironmentFault: says what it needs, what there is, and what to change.
    """
    each = math.ceil(model.needed(tokens) / len(on))
    smallest = min(on, key=lambda gpu: gpu.memory_bytes)
    allowed = int(utilization * smallest.memory_bytes)
    if each <= allowed:
        return
    per_gpu = f" on each of {len(on)} GPUs" if len(on) > 1 else ""
    keys = model.per_token * tokens / len(on)
    room = allowed - model.weights / len(on)
    fit = f"set `max_length` to at most {int(room * len(on) / model.per_token)}, or " if room > 0 else ""
    raise EnvironmentFault(
        f"{server} does not fit: its weights take {model.weights / len(on) / 1e9:.1f} GB{per_gpu}, a request of "
        f"{tokens} tokens {keys / 1e9:.1f} GB, and of the {smallest.memory_bytes / 1e9:.1f} GB of {smallest.name} it "
        f"may use {allowed / 1e9:.1f} GB",
        fix=f"{fit}split it over more GPUs with `gpus`, or quantize it with `llmops quantize`",
    )
