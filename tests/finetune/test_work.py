"""Operations are counted by their formula, checked against torch's own counter; time is operations over a rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmops.errors import EnvironmentFault
from llmops.finetune.losses import loss_sum
from llmops.finetune.shape import shape_of
from llmops.finetune.work import QUANTIZED_SLOWDOWN, Tokens, count_flops, seconds_for
from llmops.hardware import KNOWN_GPUS
from tests.finetune.plans import LLAMA_8B, make_recipe

LENGTH, TRAINED = 192, 128  # rows of logits are computed in multiples of 128
TOKENS = Tokens(used=LENGTH, trained=TRAINED, squares=LENGTH**2, computed=LENGTH, computed_squares=LENGTH**2)
LORA = "adapter={kind: lora, rank: 16}"


def counted(config: Any, *, freeze_below: int, checkpointing: bool) -> int:
    """What torch counts in one forward and backward pass with eager attention."""
    from transformers import LlamaForCausalLM

    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).train()
    if freeze_below:
        model.model.embed_tokens.requires_grad_(False)
        for layer in model.model.layers[:freeze_below]:
            layer.requires_grad_(False)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        hidden = model.model(ids, use_cache=False).last_hidden_state[0, :TRAINED]
        loss_sum(hidden, model.lm_head, ids[0, :TRAINED], chunk=TRAINED).backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("overrides", "freeze_below", "checkpointing"),
    [
        pytest.param([], 0, False, id="full"),
        pytest.param(["adapter={kind: none, freeze: {embeddings: true, layers: 0-1}}"], 2, False, id="frozen below"),
        pytest.param(["kernels.checkpointing=true"], 0, True, id="checkpointed"),
    ],
)
def test_the_count_is_torchs_own(tmp_path: Path, overrides: list[str], freeze_below: int, checkpointing: bool) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=160,
        tie_word_embeddings=False,
    )
    shape = shape_of(config.to_dict(), named="test")
    found = count_flops(make_recipe(tmp_path, *overrides), shape, TOKENS)
    measured = counted(config, freeze_below=freeze_below, checkpointing=checkpointing)
    assert found.computed == pytest.approx(measured, rel=0.01)
    assert (found.model < found.computed) == checkpointing


def test_an_adapter_costs_four_n_and_its_own_six(tmp_path: Path) -> None:
    none = Tokens(1, 0, 0, 1, 0)
    full = count_flops(make_recipe(tmp_path), LLAMA_8B, none)
    lora = count_flops(make_recipe(tmp_path, LORA), LLAMA_8B, none)
    matrices = LLAMA_8B.layers * LLAMA_8B.linear_weights
    adapter = 16 * LLAMA_8B.layers * sum(one.inputs + one.outputs for one in LLAMA_8B.linears.values())
    assert full.model == 6 * matrices
    assert lora.model == 4 * matrices + 6 * adapter
    assert full.formula.startswith("6N")
    assert lora.formula.startswith("4N")


def test_padding_is_computed_but_no_model_work(tmp_path: Path) -> None:
    padded = Tokens(used=100, trained=10, squares=1000, computed=200, computed_squares=4000)
    plain = Tokens(used=100, trained=10, squares=1000, computed=100, computed_squares=1000)
    recipe = make_recipe(tmp_path)
    assert count_flops(recipe, LLAMA_8B, padded).model == count_flops(recipe, LLAMA_8B, plain).model
    assert count_flops(recipe, LLAMA_8B, padded).computed > 1.9 * count_flops(recipe, LLAMA_8B, plain).computed


def test_time_is_operations_over_the_rate_of_all_devices(tmp_path: Path) -> None:
    gpu, recipe = KNOWN_GPUS["h100-sxm"], make_recipe(tmp_path)
    flops = count_flops(recipe, LLAMA_8B, TOKENS.times(1000))
    expected = flops.computed / (989e12 * gpu.mfu * 4)
    assert seconds_for(recipe, flops, gpu, devices=4) == pytest.approx(expected)
    quantized = make_recipe(tmp_path, LORA, "adapter.base_bits=4")
    assert seconds_for(quantized, flops, gpu, devices=4) == pytest.approx(QUANTIZED_SLOWDOWN * expected)


def test_a_device_without_the_precision_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "precision=bf16")
    flops = count_flops(recipe, LLAMA_8B, TOKENS)
    with pytest.raises(EnvironmentFault, match="T4 has no bf16 arithmetic") as error:
        seconds_for(recipe, flops, KNOWN_GPUS["t4"], devices=1)
    assert "fp16, fp32" in error.value.fix
