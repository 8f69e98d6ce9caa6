"""Memory by part: exact where it is arithmetic, at the fullest moment where parts come and go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmops.finetune.activations import Arithmetic, Load, arithmetic_of
from llmops.finetune.memory import (
    cast_bytes,
    estimate_memory,
    gathered_bytes,
    gradient_bytes,
    logits_bytes,
    optimizer_bytes,
    weight_bytes,
)
from llmops.finetune.recipe import Recipe
from llmops.records import MemoryEstimate
from tests.finetune.plans import LLAMA_8B, TINY, make_recipe

LORA = "adapter={kind: lora, rank: 16}"
LOAD = Load(sequences=4, length=1024, trained=2048, passes=1)


def on_gpu(recipe: Recipe) -> Arithmetic:
    return arithmetic_of(recipe, on_gpu=True, attention="sdpa", liger=False)


def estimate(recipe: Recipe, load: Load = LOAD, *, world: int = 1, gpu: bool = True) -> MemoryEstimate:
    arithmetic = replace(on_gpu(recipe), on_gpu=gpu)
    return estimate_memory(recipe, LLAMA_8B, arithmetic, load, world=world)


def test_full_fine_tuning_holds_sixteen_bytes_a_weight(tmp_path: Path) -> None:
    recipe, weights = make_recipe(tmp_path), LLAMA_8B.parameters.total
    assert weight_bytes(recipe, LLAMA_8B) == 4 * weights
    assert gradient_bytes(recipe, LLAMA_8B) == 4 * weights
    assert optimizer_bytes(recipe, LLAMA_8B) == 8 * weights
    eight_bits = make_recipe(tmp_path, "optimizer.name=adamw8bit")
    assert optimizer_bytes(eight_bits, LLAMA_8B) == pytest.approx(2 * weights, rel=0.02)


def test_frozen_weights_take_no_gradient_and_no_state(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "adapter={kind: none, freeze: {layers: 0-15}}")
    trained = LLAMA_8B.parameters.total - 16 * LLAMA_8B.layer_parameters
    assert weight_bytes(recipe, LLAMA_8B) == 4 * LLAMA_8B.parameters.total
    assert gradient_bytes(recipe, LLAMA_8B) == 4 * trained
    assert optimizer_bytes(recipe, LLAMA_8B) == 8 * trained


@pytest.mark.parametrize(
    ("bits", "per_weight"),
    # nf4: half a byte, an 8-bit scale per 64 weights, a 32-bit scale per 256 of those: 4.127 bits (QLoRA, section 3).
    [(16, 2.0), (8, 1.0), (4, 4.127 / 8)],
)
def test_a_base_under_an_adapter_takes_its_bits_and_the_rest_sixteen(
    tmp_path: Path, bits: int, per_weight: float
) -> None:
    recipe = make_recipe(tmp_path, LORA, f"adapter.base_bits={bits}")
    matrices = LLAMA_8B.layers * LLAMA_8B.linear_weights
    others = LLAMA_8B.parameters.total - matrices
    adapter = 16 * 32 * sum(one.inputs + one.outputs for one in LLAMA_8B.linears.values())
    expected = per_weight * matrices + 2 * others + 4 * adapter
    assert weight_bytes(recipe, LLAMA_8B) == pytest.approx(expected, rel=2e-3)
    assert gradient_bytes(recipe, LLAMA_8B) == 4 * adapter


def test_the_quantized_base_is_the_size_bitsandbytes_makes_it(tmp_path: Path) -> None:
    import torch
    from bitsandbytes.functional import quantize_4bit

    matrix = torch.randn(512, 1024)
    packed, state = quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
    taken = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    recipe = make_recipe(tmp_path, LORA, "adapter.base_bits=4")
    whole = weight_bytes(recipe, LLAMA_8B) - weight_bytes(make_recipe(tmp_path, LORA), LLAMA_8B)
    per_weight = 2 + whole / (LLAMA_8B.layers * LLAMA_8B.linear_weights)
    assert taken / matrix.numel() == pytest.approx(per_weight, rel=2e-3)


def test_autocast_copies_32_bit_matrices_and_fsdp_and_adapters_do_not(tmp_path: Path) -> None:
    full, split = make_recipe(tmp_path), make_recipe(tmp_path, "parallel={kind: fsdp}")
    lora, single = make_recipe(tmp_path, LORA), make_recipe(tmp_path, "precision=fp32")
    matrices = 2 * LLAMA_8B.layers * LLAMA_8B.linear_weights
    assert cast_bytes(full, LLAMA_8B, on_gpu(full), layers=32) == matrices
    assert cast_bytes(split, LLAMA_8B, on_gpu(split), layers=32) == 0
    assert cast_bytes(single, LLAMA_8B, on_gpu(single), layers=32) == 0
    assert cast_bytes(lora, LLAMA_8B, on_gpu(lora), layers=32) < 0.01 * matrices


def test_logits_exist_for_one_chunk_whatever_the_sequence(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA, "kernels.loss_chunk=512")

    def logits(trained: int) -> int:
        return logits_bytes(recipe, LLAMA_8B, on_gpu(recipe), replace(LOAD, trained=trained))

    chosen_states = 6 * LLAMA_8B.hidden
    assert logits(8192) - logits(4096) == 4096 * chosen_states
    assert logits(512) == 512 * (6 * LLAMA_8B.vocabulary + chosen_states)


@pytest.mark.parametrize("overrides", [["parallel={kind: fsdp}"], ["parallel={kind: fsdp}", LORA]])
def test_fsdp_divides_what_is_held_and_gathers_two_layers(tmp_path: Path, overrides: list[str]) -> None:
    recipe = make_recipe(tmp_path, *overrides)
    one, eight = estimate(recipe), estimate(recipe, world=8)
    gathered = gathered_bytes(recipe, LLAMA_8B)
    assert eight.weights - gathered == pytest.approx((one.weights - gathered) / 8, rel=1e-6)
    assert eight.optimizer == pytest.approx(one.optimizer / 8, rel=1e-6)
    assert gathered > 2 * 2 * LLAMA_8B.layer_parameters


def test_activations_and_gradients_do_not_peak_together(tmp_path: Path) -> None:
    """One pass an update: at the loss there is no gradient yet, at the end of the backward pass no activation."""
    recipe = make_recipe(tmp_path)
    short, long = estimate(recipe, Load(1, 64, 64, 1)), estimate(recipe, Load(8, 4096, 4096, 1))
    assert short.gradients >= gradient_bytes(recipe, LLAMA_8B)
    assert short.activations < long.activations / 100
    assert long.gradients < gradient_bytes(recipe, LLAMA_8B) / 10
    several = estimate(recipe, Load(8, 4096, 4096, passes=2))
    assert several.gradients == gradient_bytes(recipe, LLAMA_8B), "earlier passes leave theirs"
    assert several.activations == long.activations


def test_the_total_never_falls_with_length_batch_rank_or_passes_and_falls_with_checkpointing(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA)
    before = estimate(recipe).total
    assert estimate(recipe, replace(LOAD, length=2048)).total > before
    assert estimate(recipe, replace(LOAD, sequences=8)).total > before
    assert estimate(recipe, replace(LOAD, passes=4)).total > before
    assert estimate(make_recipe(tmp_path, LORA, "adapter.rank=64")).total > before
    assert estimate(make_recipe(tmp_path, LORA, "kernels.checkpointing=true")).total < before / 1.2
    assert estimate(recipe, world=4).total >= before, "DDP's buckets hold the gradients all the time"


def test_eager_attention_grows_with_the_square_of_the_length(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA)
    eager = replace(on_gpu(recipe), attention="eager")

    def activations(length: int) -> int:
        load = replace(LOAD, length=length)
        return estimate_memory(recipe, LLAMA_8B, eager, load, world=1).activations

    linear = estimate(recipe, replace(LOAD, length=4096)).activations / estimate(recipe).activations
    assert linear == pytest.approx(4, rel=0.05)
    assert activations(4096) / activations(1024) > 8


def test_a_cpu_process_also_holds_its_program_and_the_file_it_loads(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, LORA)
    nothing = Load(1, 8, 8, 1)
    cpu, gpu = estimate(recipe, nothing, gpu=False), estimate(recipe, nothing)
    assert gpu.process == 0
    assert cpu.process > 300 << 20
    # The pages of the file are resident while weights are copied out of them.
    assert cpu.weights == weight_bytes(recipe, LLAMA_8B) + 2 * LLAMA_8B.parameters.total


def test_a_cpu_process_reads_its_first_checkpoint_back(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    arithmetic = replace(on_gpu(recipe), on_gpu=False)
    found = estimate_memory(recipe, TINY, arithmetic, Load(1, 8, 8, 1), world=1)
    assert found.optimizer == 2 * optimizer_bytes(recipe, TINY)
