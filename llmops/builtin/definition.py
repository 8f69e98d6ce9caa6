"""What an embedded base is before it is made: its shape, its pre-training, and the digest of both. Needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmops.errors import InputError, nearest
from llmops.files import digest_of

CONTEXT = 1024
"""Tokens a model can look back on."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One embedded base.

    Attributes:
        hidden, intermediate: widths, multiples of 128 so that every quantization scheme fits.
        vocabulary: tokens, special ones included.
        steps: optimizer updates of pre-training.
        tokens: about how many are in one update, padding included.
        matrix_rate, vector_rate: peak learning rates of Muon (matrices inside the layers) and of AdamW (embeddings
            and norms); both fall to a tenth.
        warmup: share of the steps over which the rates rise.
        sampled: conversations the tokenizer is trained on.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    steps: int
    tokens: int = 2048
    matrix_rate: float = 0.04
    vector_rate: float = 0.04
    warmup: float = 0.05
    weight_decay: float = 0.05
    sampled: int = 6000
    seed: int = 20

    def config(self) -> dict[str, Any]:
        """The model's `config.json`; token ids follow `tokenizer.SPECIAL`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.hidden // self.heads,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "use_cache": True,
            "dtype": "float32",
        }

    def digest(self) -> str:
        """sha256 (hex) over all the weights depend on, machine and thread count apart."""
        here = Path(__file__).parent
        sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(here.glob("*.py"))}
        return digest_of({"definition": asdict(self), "sources": sources, "versions": versions()})


TINY = Definition(
    name="tiny",
    hidden=256,
    intermediate=640,
    layers=4,
    heads=4,
    key_value_heads=2,
    vocabulary=3072,
    steps=260,
)
SMALL = Definition(
    name="small",
    hidden=384,
    intermediate=1024,
    layers=6,
    heads=6,
    key_value_heads=2,
    vocabulary=3072,
    steps=240,
)
DEFINITIONS = {definition.name: definition for definition in (TINY, SMALL)}


def definition_of(name: str) -> Definition:
    """The definition of `tiny` or `small`.

    Raises:
        InputError: no embedded base is called so.
    """
    if name not in DEFINITIONS:
        raise InputError(
            f"no embedded base is called {name!r}{nearest(name, DEFINITIONS)}",
            fix=f"use one of: {', '.join(f'builtin:{known}' for known in DEFINITIONS)}",
        )
    return DEFINITIONS[name]


def versions() -> dict[str, str]:
    """Versions of the packages that the bytes of a base depend on; a missing one is empty."""
    found = {}
    for package in ("torch", "transformers", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
