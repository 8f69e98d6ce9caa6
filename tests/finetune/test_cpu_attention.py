"""Products give the attention and the gradients that the formula gives, as exactly as 16 bits can."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmops.finetune.cpu_attention import SHORT, causal


def by_formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √width + causal) V in 64 bits."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = query.double(), key.double(), value.double()
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ value


@pytest.mark.parametrize("length", [1, 2, 17, 64, SHORT])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_and_gradients_equal_the_formula_within_rounding(
    length: int, key_heads: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(length)
    heads, width = 4, 32
    given = [
        (2 * torch.randn(3, count, length, width)).to(dtype).requires_grad_() for count in (heads, key_heads, key_heads)
    ]
    towards = torch.randn(3, heads, length, width).to(dtype)
    got = causal(given[0], given[1], given[2], scaling=None)
    wanted = by_formula(given[0], given[1], given[2])
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    assert (got.double() - wanted).norm() < 2 * rounding * wanted.norm()
    # The slopes of scores are small differences of large numbers, so the measure is what the fused kernel reaches.
    groups = heads // key_heads
    repeated = [given[0], *(one.repeat_interleave(groups, 1) for one in given[1:])]
    fused = torch.nn.functional.scaled_dot_product_attention(*repeated, is_causal=True)
    exact = torch.autograd.grad(wanted, given, towards.double())
    theirs = torch.autograd.grad(fused, given, towards)
    ours = torch.autograd.grad(got, given, towards)
    for one, other, right in zip(ours, theirs, exact, strict=True):
        # A token that sees only itself has no slope; sums in another order leave 32-bit rounding of it.
        allowed = 1.5 * (other.double() - right).norm() + 2 * rounding * right.norm() + 1e-6 * towards.double().norm()
        assert (one.double() - right).norm() <= allowed


def test_in_32_bits_it_is_sdpa_itself() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 20, 16, requires_grad=True) for _ in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.equal(causal(query, key, value, scaling=None), plain)
