"""The smallest folders that count as models, and the manifests of runs that left them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from llmops.files import folder_digest
from llmops.records import RunManifest
from llmops.registry.licence_chain import TAG, Licensed, to_plain

LICENCES = [Licensed("base", "org/base", "Apache-2.0", "its model card")]
LICENSED = {TAG: json.dumps(to_plain(LICENCES))}
"""The facts of a version whose base and data may be used; without them it is not promoted."""


def write_model(folder: Path, value: float = 1.0, config: str = "config.json") -> Path:
    """The folder; `value` makes its bytes differ, `config` is the file that says what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config).write_text("{}")
    weights = "adapter_model" if config == "adapter_config.json" else "model"
    (folder / f"{weights}.safetensors").write_bytes(safetensors(value))
    return folder


def safetensors(value: float) -> bytes:
    """A safetensors file of one number, by the format's definition."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


def manifest_of(artifact: Path, **other: Any) -> RunManifest:
    """The manifest of a run that left `artifact`."""
    return a_manifest(**{"artifact_digest": folder_digest(artifact), **other})


def a_manifest(**other: Any) -> RunManifest:
    """A manifest as a run writes it, with the values of `other` in place of its own."""
    known: dict[str, Any] = {
        "name": "e2e-nlg",
        "digest": "d" * 64,
        "identity": {"base": "b" * 64, "base_revision": "c" * 40, "dataset": "a" * 64, "world": 1},
        "recipe": {
            "name": "e2e-nlg",
            "base": "org/base",
            "data": {"train": [{"source": "hub:org/rows"}]},
            "method": {"kind": "sft"},
            "adapter": {"kind": "lora", "rank": 16, "variant": "plain"},
            "batch": {"sequences": 32},
            "seed": 17,
        },
        "kind": "adapter",
        "artifact_digest": "e" * 64,
        "steps": 100,
        "tokens": 90_000,
        "trained_tokens": 45_000,
        "final_loss": 1.25,
        "validation_loss": 1.5,
        "tokens_per_s": 6000.0,
        "predicted": {"peak_bytes": 1e9, "seconds": 20.0, "tokens_per_s": 5000.0},
        "measured": {"peak_bytes": 1.1e9, "seconds": 15.0, "tokens_per_s": 6000.0},
        "environment": {"python": "3.11.2", "torch": "2.13.0"},
    }
    return RunManifest(**(known | other))
