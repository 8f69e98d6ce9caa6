"""A base as numbers: widths, layers and parameters by part, read from its `config.json`; no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import InputError, nearest

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")
_FILE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True, slots=True)
class _Family:
    """What the `config.json` of an architecture leaves unsaid; None for `key_value_heads` means as many as heads."""

    qkv_bias: bool | None = None
    """None: `attention_bias` of the file decides, for the output projection too."""
    mlp_bias_key: bool = False
    qk_norm: bool = False
    norms: int = 2
    tied: bool = False
    key_value_heads: int | None = None
    head_dim: int | None = None
    fused: bool = False


# Read off the modeling and configuration files of transformers 5.19; a test builds each of them.
_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family(mlp_bias_key=True),
    "mistral": _Family(qkv_bias=False, key_value_heads=8),
    "qwen2": _Family(qkv_bias=True, key_value_heads=32),
    "qwen3": _Family(qk_norm=True, key_value_heads=32, head_dim=128),
    "gemma": _Family(tied=True, key_value_heads=16, head_dim=256),
    "gemma2": _Family(tied=True, norms=4, key_value_heads=4, head_dim=256),
    "gemma3_text": _Family(tied=True, norms=4, qk_norm=True, key_value_heads=4, head_dim=256),
    "granite": _Family(mlp_bias_key=True),
    "smollm3": _Family(mlp_bias_key=True, tied=True, key_value_heads=4),
    "phi3": _Family(qkv_bias=False, fused=True),
}


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a decoder layer; `reads` names the activation it takes, which several may share."""

    inputs: int
    outputs: int
    bias: bool
    reads: str

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Weights by part; tied embeddings count once, under `embeddings`."""

    embeddings: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return self.embeddings + self.attention + self.mlp + self.norms + self.head


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer with gated MLPs and RMS norms.

    Attributes:
        hidden: width of the residual stream; `intermediate` that of the MLP.
        head_dim: width of one attention head; heads x head_dim need not be `hidden`.
        vocabulary: rows of the embedding.
        tied: whether the output layer is the embedding itself.
        norms: RMS norms over `hidden` in one layer; `qk_norm` adds two over `head_dim`.
        softcap: logits are squashed, so the loss cannot take its fast path.
        file_bytes: bytes a weight takes on disk.
    """

    architecture: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    context: int
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norms: int = 2
    fused: bool = False
    softcap: bool = False
    file_bytes: int = 2

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.key_value_heads * self.head_dim

    @property
    def attention_linears(self) -> dict[str, Linear]:
        hidden, query, key = self.hidden, self.query_width, self.key_width
        out = Linear(query, hidden, self.output_bias, "attention")
        if self.fused:
            return {"qkv_proj": Linear(hidden, query + 2 * key, self.qkv_bias, "first norm"), "o_proj": out}
        return {
            "q_proj": Linear(hidden, query, self.qkv_bias, "first norm"),
            "k_proj": Linear(hidden, key, self.qkv_bias, "first norm"),
            "v_proj": Linear(hidden, key, self.qkv_bias, "first norm"),
            "o_proj": out,
        }

    @property
    def mlp_linears(self) -> dict[str, Linear]:
        hidden, inner, bias = self.hidden, self.intermediate, self.mlp_bias
        down = Linear(inner, hidden, bias, "product")
        if self.fused:
            return {"gate_up_proj": Linear(hidden, 2 * inner, bias, "second norm"), "down_proj": down}
        return {
            "gate_proj": Linear(hidden, inner, bias, "second norm"),
            "up_proj": Linear(hidden, inner, bias, "second norm"),
            "down_proj": down,
        }

    @property
    def linears(self) -> dict[str, Linear]:
        """The linear layers of one decoder layer by name, what `all-linear` adapts."""
        return {**self.attention_linears, **self.mlp_linears}

    @property
    def linear_weights(self) -> int:
        """Weights of the matrices of one decoder layer, biases left out."""
        return sum(linear.weights for linear in self.linears.values())

    @property
    def layer_norms(self) -> int:
        """Weights of the norms of one decoder layer."""
        return self.norms * self.hidden + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def layer_parameters(self) -> int:
        return sum(linear.parameters for linear in self.linears.values()) + self.layer_norms

    @property
    def embedding_weights(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> Parameters:
        return Parameters(
            embeddings=self.embedding_weights,
            attention=self.layers * sum(linear.parameters for linear in self.attention_linears.values()),
            mlp=self.layers * sum(linear.parameters for linear in self.mlp_linears.values()),
            norms=self.layers * self.layer_norms + self.hidden,
            head=0 if self.tied else self.embedding_weights,
        )


def shape_of(config: Mapping[str, Any], *, named: str) -> ModelShape:
    """The shape that a `config.json` describes.

    Args:
        named: the base as the user wrote it, for what is wrong with it.

    Raises:
        InputError: an architecture whose parameters cannot be counted from its configuration: mixtures of
            experts, encoders, state-space models; or a key is missing.
    """
    if isinstance(config.get("text_config"), Mapping) and "hidden_size" not in config:
        config = config["text_config"]
    architecture = str(config.get("model_type", ""))
    known = ", ".join(_FAMILIES)
    experts = [key for key in _EXPERTS if _number(config.get(key)) > 0]
    if experts:
        raise InputError(
            f"{named} is a mixture of experts ({experts[0]}: {config[experts[0]]}), which is not trained here",
            fix=f"choose a dense base of one of: {known}",
        )
    if architecture not in _FAMILIES:
        raise InputError(
            f"{named} is of the architecture {architecture or 'unknown'!r}, whose shape is not known here"
            f"{nearest(architecture, _FAMILIES)}",
            fix=f"choose a base of one of: {known}",
        )
    family = _FAMILIES[architecture]
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [key for key in needed if _number(config.get(key)) <= 0]
    if missing:
        raise InputError(
            f"the config.json of {named} has no {', '.join(missing)}", fix="copy the base's config.json again, whole"
        )
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    attention_bias = bool(config.get("attention_bias", False))
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        architecture=architecture,
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or family.key_value_heads or heads),
        head_dim=int(config.get("head_dim") or family.head_dim or hidden // heads),
        vocabulary=int(config["vocab_size"]),
        tied=family.tied if tied is None else bool(tied),
        context=int(_number(config.get("max_position_embeddings"))),
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=attention_bias if family.qkv_bias is None else False,
        mlp_bias=family.mlp_bias_key and bool(config.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        norms=family.norms,
        fused=family.fused,
        softcap=bool(config.get("final_logit_softcapping")),
        file_bytes=_FILE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2),
    )


def shape_at(folder: Path, *, named: str) -> ModelShape:
    """The shape that a folder's `config.json` describes."""
    return shape_of(json.loads((folder / "config.json").read_text()), named=named)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
