"""A definition says what a base will be before it is made, and its digest changes with whatever makes the weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from llmops.builtin.bases import shape
from llmops.builtin.definition import DEFINITIONS, TINY, definition_of
from llmops.errors import InputError


def parameters(config: dict[str, Any]) -> int:
    """A Llama's parameters by formula, embeddings tied."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden
    return config["vocab_size"] * hidden + config["num_hidden_layers"] * layer + hidden


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 3.3e6, 3.7e6), ("small", 10.5e6, 11.5e6)])
def test_the_bases_are_as_large_as_they_are_said_to_be(name: str, low: float, high: float) -> None:
    assert low < parameters(shape(name)) < high


@pytest.mark.parametrize("name", DEFINITIONS)
def test_transformers_builds_what_the_formula_counts(name: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape(name)))
    assert model.num_parameters() == parameters(shape(name))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_widths_are_multiples_of_128(name: str) -> None:
    assert shape(name)["hidden_size"] % 128 == shape(name)["intermediate_size"] % 128 == 0


def test_an_unknown_base_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean `tiny`"):
        shape("tinny")


@pytest.mark.parametrize("field", [field.name for field in fields(TINY)])
def test_the_digest_changes_with_every_field(field: str) -> None:
    value = getattr(TINY, field)
    changed: dict[str, Any] = {field: f"{value}x" if isinstance(value, str) else value * 2}
    other = replace(TINY, **changed)
    assert other.digest() != TINY.digest()
    assert definition_of("tiny").digest() == TINY.digest()


def test_shapes_and_digests_need_no_torch() -> None:
    script = (
        "import sys; from llmops.builtin.bases import shape; from llmops.builtin.definition import TINY; "
        "shape('tiny'); TINY.digest(); assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
