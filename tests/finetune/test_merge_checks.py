"""What is not the adapter, is only the base, or reads back differently, does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmops.finetune.merge_checks import (
    EFFECT_LOST,
    TOLERANCE,
    Changes,
    MergeFault,
    check_changed,
    check_names,
    check_reload,
    check_same,
    near_tie,
)
from llmops.finetune.probes import Distance, logits
from tests.finetune.small_adapters import make_base

SAME = Distance(kl=0.0, agreement=1.0, widest_gap=0.0)
MOVED = Changes(tensors=3, largest=0.1, unchanged=())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("kl", "gap", "lost", "problem"),
    [
        pytest.param(0.9, 0.9, 0.9, None, id="within all limits"),
        pytest.param(1.1, 0.0, 0.0, "merged and adapter differ", id="too far apart"),
        pytest.param(float("nan"), 0.0, 0.0, "merged and adapter differ", id="NaN"),
        pytest.param(0.0, 1.1, 0.0, "choose different tokens", id="another choice, and no near tie"),
        pytest.param(0.0, 0.0, 1.1, "of the adapter's effect", id="nearer to the base than to the adapter"),
    ],
)
def test_merged_must_equal_the_adapter(dtype: str, kl: float, gap: float, lost: float, problem: str | None) -> None:
    found = Distance(kl=kl * TOLERANCE[dtype], agreement=0.99, widest_gap=gap * near_tie(dtype))
    if problem is None:
        check_same(found, lost * EFFECT_LOST, dtype)
    else:
        with pytest.raises(MergeFault, match=problem):
            check_same(found, lost * EFFECT_LOST, dtype)


def test_coarser_numbers_are_allowed_more() -> None:
    assert TOLERANCE["fp32"] < TOLERANCE["fp16"] < TOLERANCE["bf16"]
    assert TOLERANCE["bf16"] / TOLERANCE["fp16"] == pytest.approx((2**-8 / 2**-11) ** 2, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "kl", "problem"),
    [
        pytest.param(MOVED, 1e-9, None, id="moved"),
        pytest.param(Changes(0, 0.0, ()), 0.0, "cannot be told from its base: 0 tensors", id="byte-identical"),
        pytest.param(MOVED, 0.0, "cannot be told from its base", id="no other distributions"),
        pytest.param(MOVED, float("nan"), "cannot be told from its base", id="NaN"),
        pytest.param(Changes(3, 0.1, ("a.q_proj",)), 1.0, "merging a.q_proj equals the base", id="one layer forgotten"),
    ],
)
def test_merged_must_differ_from_the_base(changes: Changes, kl: float, problem: str | None) -> None:
    if problem is None:
        check_changed(changes, kl, "bf16")
    else:
        with pytest.raises(MergeFault, match=problem):
            check_changed(changes, kl, "bf16")


def test_no_tensor_of_the_adapter_may_be_left_and_none_of_the_base_be_lost() -> None:
    names = {"model.q_proj.weight", "lm_head.weight"}
    check_names(names, set(names))
    with pytest.raises(MergeFault, match=r"first model\.q_proj\.lora_A\.weight"):
        check_names(names | {"model.q_proj.lora_A.weight"}, names)
    with pytest.raises(MergeFault, match=r"first lm_head\.weight"):
        check_names(names - {"lm_head.weight"}, names)


def test_the_written_folder_must_give_the_same_logits_to_the_last_bit(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, ids = make_base(tmp_path, dtype=torch.bfloat16), torch.arange(10)[None]
    expected = logits(AutoModelForCausalLM.from_pretrained(base), ids)
    check_reload(base, ids, expected)
    expected[3, 5] = torch.nextafter(expected[3, 5], torch.tensor(torch.inf, dtype=torch.bfloat16))
    with pytest.raises(MergeFault, match="gives other logits"):
        check_reload(base, ids, expected)
