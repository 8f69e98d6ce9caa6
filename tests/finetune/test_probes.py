"""Two models are compared on the same inputs every time, in arithmetic finer than what they differ by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llmops.finetune.adapter import attach, read_adapter
from llmops.finetune.merge_base import fill, load_base
from llmops.finetune.probes import (
    LENGTH,
    ROWS,
    distance,
    float32_arithmetic,
    largest_id,
    logits,
    probe_ids,
)
from tests.finetune.small_adapters import make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), dtype=torch.bfloat16, tied=True)


@given(vocabulary=st.integers(1, 300_000))
def test_probes_are_fixed_and_inside_the_vocabulary(vocabulary: int) -> None:
    one, two = (probe_ids(vocabulary, Path("no tokenizer")) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (ROWS, LENGTH)
    assert int(one.min()) >= 0
    assert int(one.max()) == vocabulary - 1, "the last ids, where added tokens are, are among them"


def test_with_a_tokenizer_three_rows_are_text_and_one_holds_the_added_tokens(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = probe_ids(len(tokenizer), base)
    assert tokenizer.decode(ids[0]).startswith("The quick brown fox")
    assert set(tokenizer.all_special_ids) <= set(ids[3].tolist())
    assert largest_id(base) == len(tokenizer) - 1
    assert largest_id(base / "elsewhere") is None


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_32_bit_arithmetic_gives_what_a_model_in_32_bits_gives_and_leaves_it_as_it_was(
    base: Path, tmp_path: Path, variant: dict[str, Any]
) -> None:
    read = read_adapter(make_adapter(tmp_path / "adapter", base, **variant))
    model, ids = fill(attach(load_base(base, read), read), read), torch.arange(12).reshape(2, 6)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with float32_arithmetic(model):
        found = logits(model, ids)
    after = model.state_dict()
    assert {name: one.dtype for name, one in after.items()} == {name: one.dtype for name, one in before.items()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["base_model.model.model.norm.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(found, logits(model.float(), ids), rtol=0, atol=1e-6)


def test_weights_come_back_when_the_pass_fails(base: Path, tmp_path: Path) -> None:
    model = load_base(base, read_adapter(make_adapter(tmp_path / "adapter", base)))
    with pytest.raises(IndexError), float32_arithmetic(model):
        logits(model, torch.tensor([[10_000]]))
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    logits(model, torch.tensor([[1]]))


def test_weights_can_be_rounded_on_the_way(base: Path, tmp_path: Path) -> None:
    model = load_base(base, read_adapter(make_adapter(tmp_path / "adapter", base)), dtype=torch.float32)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1.001)
    ids = torch.arange(6)[None]
    with float32_arithmetic(model, rounded_to=torch.float16):
        found = logits(model, ids)
    torch.testing.assert_close(found, logits(model.half().float(), ids), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 2**31), positions=st.integers(1, 5), vocabulary=st.integers(2, 50))
def test_the_distance_is_kl_and_is_zero_for_what_is_the_same(seed: int, positions: int, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.randn(positions, vocabulary, generator=generator) for _ in range(2))
    wanted = F.kl_div(
        two.double().log_softmax(-1), one.double().log_softmax(-1), log_target=True, reduction="batchmean"
    )
    found = distance(one, two)
    assert found.kl == pytest.approx(float(wanted), rel=1e-9, abs=1e-15)
    assert found.agreement == float((one.argmax(-1) == two.argmax(-1)).double().mean())
    assert (found.widest_gap > 0) is (found.agreement < 1)
    assert distance(one, one + 3.0).kl == pytest.approx(0, abs=1e-12), "a shift of all logits is no difference"


def test_the_gap_is_the_lead_that_was_lost() -> None:
    reference = torch.tensor([[1.0, 0.75, -2.0], [0.0, 5.0, 1.0]])
    other = torch.tensor([[0.9, 1.1, -2.0], [0.0, 5.0, 1.0]])
    found = distance(reference, other)
    assert found.agreement == 0.5
    assert found.widest_gap == pytest.approx(0.25)


def test_nan_is_never_near() -> None:
    broken = torch.tensor([[1.0, float("nan")]])
    assert not distance(torch.ones(1, 2), broken).kl <= 1.0
