"""A scheme says beforehand where it runs and what it takes, and is refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault, InputError
from llmops.finetune.shape import ModelShape, shape_of
from llmops.hardware import MIB, Gpu, Machine
from llmops.quantize.schemes import SCHEMES, check_machine, check_shape, forecast, where, why_not

LLAMA_8B = {  # config.json of Llama 3.1 8B
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def shape(**changes: Any) -> ModelShape:
    return shape_of(LLAMA_8B | changes, named="m")


def machine(*capabilities: str) -> Machine:
    gpus = tuple(Gpu("a GPU", 80_000 * MIB, 80_000 * MIB, one, "driver") for one in capabilities)
    return Machine("a CPU", 2, 2, 8 << 30, 8 << 30, 1 << 40, gpus, "3.11", ())


@pytest.mark.parametrize(
    ("scheme", "published_gb"),
    [
        # hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4 (4 bits, group 128) lies on the hub with 5.74 GB,
        # RedHatAI's quantized.w8a8 and FP8 of the same model with 9.1 GB, in decimal gigabytes.
        pytest.param("w4a16", 5.74, id="4-bit weights"),
        pytest.param("w8a8", 9.1, id="8-bit integers"),
        pytest.param("fp8", 9.1, id="8-bit floats"),
    ],
)
def test_the_size_foretold_is_that_of_published_checkpoints(scheme: str, published_gb: float) -> None:
    found = forecast(SCHEMES[scheme], shape(), samples=128, length=2048, iters=200)
    assert found.original_disk == pytest.approx(16.06e9, rel=0.001)
    assert found.disk == pytest.approx(published_gb * 1e9, rel=0.02)


@given(inputs=st.integers(1, 64), outputs=st.integers(1, 64))
def test_four_bit_weights_are_counted_tensor_by_tensor(inputs: int, outputs: int) -> None:
    """The tensors of GPTQ's layout: eight weights in an int32, a half-precision scale and a 4-bit zero a group."""
    rows, columns = 128 * inputs, 32 * outputs
    layer = replace(shape(), hidden=rows).linears["gate_proj"]
    layer = replace(layer, inputs=rows, outputs=columns)
    packed = (rows // 8) * columns * 4
    scales = (rows // 128) * columns * 2
    zeros = (rows // 128) * (columns // 8) * 4
    assert SCHEMES["w4a16"].bytes_of(layer) == packed + scales + zeros


def test_scales_of_eight_bits_are_one_a_row_or_one_a_block() -> None:
    layer = shape().linears["gate_proj"]  # 4096 to 14336
    assert SCHEMES["w8a8"].bytes_of(layer) == 4096 * 14336 + 14336 * 2
    assert SCHEMES["fp8"].bytes_of(layer) == 4096 * 14336 + 32 * 112 * 2


def test_memory_grows_with_the_rows_that_rounding_is_tuned_on_and_not_without_tuning() -> None:
    few, many = (forecast(SCHEMES["w4a16"], shape(), samples=n, length=2048, iters=200) for n in (64, 128))
    # Four activations of the hidden width a token, in 16 bits.
    assert many.memory - few.memory == 64 * 2048 * 4096 * 4 * 2
    fast, fast_many = (forecast(SCHEMES["w4a16"], shape(), samples=n, length=2048, iters=0) for n in (64, 128))
    assert fast.memory == fast_many.memory < few.memory


def test_widths_that_the_group_does_not_divide_are_refused_with_the_schemes_that_fit() -> None:
    with pytest.raises(InputError, match=r"m does not fit w4a16: .* 192 inputs, and 128 weights") as refused:
        check_shape(SCHEMES["w4a16"], shape(hidden_size=192, num_attention_heads=6, num_key_value_heads=6), named="m")
    assert refused.value.fix == "use a scheme that fits: nf4, w8a8"
    check_shape(SCHEMES["w4a16"], shape(), named="m")


def test_a_cpu_runs_what_has_a_kernel_for_it() -> None:
    assert {name for name in SCHEMES if why_not(SCHEMES[name], machine()) is None} == {"w4a16", "w8a8", "nf4"}
    with pytest.raises(EnvironmentFault, match=r"fp8 needs a GPU of compute capability 8\.9, and .* none") as refused:
        check_machine(SCHEMES["fp8"], machine())
    assert "nf4, w4a16, w8a8" in refused.value.fix


@pytest.mark.parametrize(
    ("capability", "able"),
    [
        pytest.param("7.0", set(), id="a V100 is too old for all"),
        pytest.param("8.6", {"w4a16", "w8a16", "w8a8", "nf4"}, id="Ampere has no fp8"),
        pytest.param("9.0", {"w4a16", "w8a16", "w8a8", "fp8", "nf4"}, id="Hopper has all"),
    ],
)
def test_a_gpu_runs_what_its_capability_allows(capability: str, able: set[str]) -> None:
    assert {name for name in SCHEMES if why_not(SCHEMES[name], machine(capability)) is None} == able


def test_where_it_runs_is_told_in_words() -> None:
    assert where(SCHEMES["w4a16"]) == "GPU of compute capability 7.5 or more, or CPU"
    assert where(SCHEMES["fp8"]) == "GPU of compute capability 8.9 or more"


def test_a_misspelt_scheme_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean `w4a16`"):
        SCHEMES["w4a61"]
