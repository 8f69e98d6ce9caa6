"""A shape counts exactly the parameters of the model that transformers builds from the same configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmops.builtin.bases import shape as builtin_config
from llmops.errors import InputError
from llmops.finetune.known_shapes import KNOWN
from llmops.finetune.shape import shape_of

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 160,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def built(config: dict[str, Any]) -> Any:
    """The real model without memory for its weights."""
    settings = {**SPECIAL, **config}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))


def weights_under(model: Any, part: str) -> int:
    return sum(one.numel() for name, one in model.named_parameters() if part in name and "norm" not in name)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"model_type": "llama"}, id="llama"),
        pytest.param({"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 2}, id="llama, tied"),
        pytest.param({"model_type": "llama", "attention_bias": True, "mlp_bias": True}, id="llama, biases"),
        pytest.param({"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 24}, id="mistral"),
        pytest.param({"model_type": "qwen2", "num_key_value_heads": 1}, id="qwen2"),
        pytest.param({"model_type": "qwen3", "num_key_value_heads": 2}, id="qwen3 with the default width of heads"),
        pytest.param({"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True}, id="qwen3, tied"),
        pytest.param({"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 16}, id="gemma"),
        pytest.param({"model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 16}, id="gemma2"),
        pytest.param({"model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 16}, id="gemma3"),
        pytest.param({"model_type": "granite", "num_key_value_heads": 2, "mlp_bias": True}, id="granite"),
        pytest.param({"model_type": "smollm3", "num_key_value_heads": 2}, id="smollm3"),
        pytest.param({"model_type": "phi3", "num_key_value_heads": 2}, id="phi3, fused matrices"),
    ],
)
def test_parameters_are_those_of_the_real_model(config: dict[str, Any]) -> None:
    config = SIZES | config
    model = built(config)
    # What save_pretrained writes is what a user's folder holds.
    shape = shape_of(model.config.to_dict(), named="test")
    parameters = shape.parameters
    assert parameters.total == sum(one.numel() for one in model.parameters())
    assert parameters.attention == weights_under(model, "self_attn")
    assert parameters.mlp == weights_under(model, "mlp")
    assert parameters.embeddings == model.get_input_embeddings().weight.numel()
    assert parameters.head == (0 if shape.tied else model.get_output_embeddings().weight.numel())
    assert shape_of(config, named="as published").parameters == parameters, "keys left out mean the same"


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_an_embedded_base_is_counted_before_it_is_made(name: str) -> None:
    config = builtin_config(name)
    model = built({key: value for key, value in config.items() if key not in ("architectures", "dtype")})
    shape = shape_of(config, named=name)
    assert shape.parameters.total == sum(one.numel() for one in model.parameters())
    assert shape.linears.keys() == {
        part.rsplit(".", 1)[-1]
        for part, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers.0" in part
    }


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # Totals of the safetensors files as the hub shows them; Qwen3-0.6B without its stored copy of the embedding.
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-32B", 32_762_123_264),
    ],
)
def test_well_known_bases_have_their_published_size(name: str, published: int) -> None:
    assert shape_of(KNOWN[name], named=name).parameters.total == published


def test_a_model_that_also_sees_is_counted_by_its_language_part() -> None:
    text = SIZES | {"model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 16}
    assert shape_of({"model_type": "gemma3", "text_config": text}, named="x") == shape_of(text, named="x")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts", id="experts"),
        pytest.param({"model_type": "mamba2"}, "'mamba2'", id="another architecture"),
        pytest.param({"model_type": "lama"}, "did you mean `llama`", id="nearly a known one"),
        pytest.param({}, "unknown", id="none named"),
        pytest.param({"model_type": "llama", "vocab_size": None}, "has no vocab_size", id="a key is missing"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        shape_of(SIZES | config, named="org/base")
    assert "org/base" in error.value.problem
