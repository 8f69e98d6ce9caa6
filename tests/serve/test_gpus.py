"""GPUs are given out before anything is loaded, and what cannot fit is said with its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault
from llmops.hardware import Gpu
from llmops.serve.gpus import Ask, Footprint, assign, check_fits, footprint

L4 = Gpu("NVIDIA L4", 24_000_000_000, 24_000_000_000, "8.9", "550")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A Llama with grouped queries, saved by the library in two dtypes."""
    import torch
    from safetensors.torch import save_file

    config = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    save_file({"a": torch.zeros(10, 7), "b": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    return tmp_path


def test_weights_are_counted_as_they_are_held(saved: Path) -> None:
    assert footprint(saved).weights == 2 * (70 + 5)
    assert footprint(saved, wide=True).weights == 4 * 70 + 2 * 5


def test_keys_and_values_of_a_token_are_those_that_transformers_keeps(saved: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        dtype=torch.bfloat16,
    )
    tokens = 5
    kept = LlamaForCausalLM(config).to(torch.bfloat16)(torch.zeros(1, tokens, dtype=torch.long)).past_key_values
    held = sum(part.nbytes for layer in kept.layers for part in (layer.keys, layer.values))
    assert footprint(saved).per_token * tokens == held
    assert footprint(saved).context == 512


def test_a_model_that_cannot_fit_is_told_how_it_could() -> None:
    model = Footprint(weights=16_000_000_000, per_token=131_072, context=131_072)
    with pytest.raises(EnvironmentFault, match=r"weights take 16\.0 GB, a request of 131072 tokens 17\.2 GB") as caught:
        check_fits("a", model, 131_072, [L4], utilization=0.9)
    most = (0.9 * 24e9 - 16e9) / 131_072
    assert f"`max_length` to at most {int(most)}" in caught.value.fix
    check_fits("a", model, int(most), [L4], utilization=0.9)
    check_fits("a", model, 131_072, [L4, L4], utilization=0.9)


def test_weights_alone_that_are_too_large_name_no_length() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        check_fits("a", Footprint(140_000_000_000, 1, 10), 10, [L4], utilization=0.9)
    assert "max_length" not in caught.value.fix
    assert "gpus" in caught.value.fix


def test_too_few_gpus_are_said() -> None:
    with pytest.raises(EnvironmentFault, match="want 4 GPUs, there are 3: none is left for b"):
        assign([Ask("a", 2, 1.0), Ask("b", 2, 1.0)], [L4] * 3, {})


def test_stated_shares_sit_side_by_side_on_one_gpu() -> None:
    assert assign([Ask("a", 1, 0.45), Ask("b", 1, 0.45), Ask("c", 1, 1.0)], [L4] * 2, {}) == [(0,), (0,), (1,)]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.25, 0.45, 0.5, 0.9, 1.0])), max_size=6),
    st.integers(0, 6),
)
def test_no_gpu_is_given_out_beyond_its_whole_and_no_server_gets_one_twice(
    asks: list[tuple[int, float]], count: int
) -> None:
    wanted = [Ask(str(number), gpus, share) for number, (gpus, share) in enumerate(asks)]
    try:
        found = assign(wanted, [L4] * count, {})
    except EnvironmentFault:
        return
    assert [len(set(one)) for one in found] == [one.gpus for one in wanted]
    for gpu in range(count):
        assert sum(one.share for one, on in zip(wanted, found, strict=True) if gpu in on) <= 1 + 1e-9
