"""Attention by document: what torch's kernel is told in each release, and what the plain path computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmops.finetune.varlen import by_document, by_kernel, kernel_options, varlen_attention, varlen_mask

TORCH_2_10 = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "is_causal", "return_aux")
TORCH_2_13 = (*TORCH_2_10[:7], "return_aux", "scale", "window_size", "enable_gqa")


def tensors(
    *, heads: int = 4, groups: int = 2, width: int = 8, tokens: int = 10
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(tokens, heads, width), (tokens, heads // groups, width), (tokens, heads // groups, width)]
    query, key, value = (torch.randn(shape, generator=draw) for shape in shapes)
    return query, key, value


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention written out: softmax(scale · q kᵀ) v. `(tokens, heads, width)`"""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = scale * torch.einsum("qhd,khd->hqk", query, key)
    scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


def run(ends: list[int], sequences: int = 1, **others: Any) -> torch.Tensor:
    """`(tokens, heads, width)` over sequences laid end to end."""
    query, key, value = (one.unflatten(0, (sequences, -1)).transpose(1, 2) for one in tensors())
    out, weights = varlen_attention(
        torch.nn.Identity(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        cu_seq_lens_q=torch.tensor(ends, dtype=torch.int32),
        max_length_q=16,
        **others,
    )
    assert weights is None
    return out.flatten(0, 1)


@pytest.mark.parametrize("sequences", [1, 2])
def test_every_document_is_causal_attention_over_itself(sequences: int) -> None:
    query, key, value = tensors()
    found = run([0, 3, 5, 10], sequences=sequences)
    for begin, end in ((0, 3), (3, 5), (5, 10)):
        expected = dense(query[begin:end], key[begin:end], value[begin:end], 0.3)
        torch.testing.assert_close(found[begin:end], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("feature", ["softcap", "s_aux", "position_bias"])
def test_what_it_would_ignore_is_an_error(feature: str) -> None:
    unset: dict[str, Any] = {feature: None}
    with pytest.raises(ValueError, match=feature):
        run([0, 10], **{**unset, feature: 3})
    run([0, 10], **unset)


def test_a_window_is_no_obstacle_until_a_document_is_longer() -> None:
    assert torch.equal(run([0, 3, 10], sliding_window=7), run([0, 3, 10]))
    with pytest.raises(ValueError, match="7 tokens is longer than the model's window of 6"):
        run([0, 3, 10], sliding_window=6)


def test_without_padding_there_is_no_mask_and_with_it_that_of_sdpa() -> None:
    from transformers.masking_utils import causal_mask_function

    shape = {"batch_size": 1, "q_length": 3, "kv_length": 3, "mask_function": causal_mask_function}
    assert varlen_mask(**shape) is None
    mask = varlen_mask(attention_mask=torch.tensor([[False, True, True]]), **shape)
    assert mask is not None
    assert mask.int().tolist() == [[[[0, 0, 0], [0, 1, 0], [0, 1, 1]]]]


def kernel_of(release: tuple[str, ...]) -> Callable[..., torch.Tensor]:
    """What `varlen_attn` computes, with the parameters it has in a release of torch."""

    def compute(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, told: Any) -> Any:
        assert told.get("is_causal") or told.get("window_size") == (-1, 0)
        assert told.get("enable_gqa") or key.shape[1] == query.shape[1]
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        scale = told.get("scale") or query.shape[-1] ** -0.5
        parts = zip(*(one.split(ends.diff().tolist()) for one in (query, key, value)), strict=True)
        return torch.cat([dense(q, k, v, scale) for q, k, v in parts])

    def torch_2_10(
        query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, is_causal: bool = False
    ) -> Any:
        return compute(query, key, value, cu_seq_q, {"is_causal": is_causal})

    def torch_2_13(
        query: Any,
        key: Any,
        value: Any,
        cu_seq_q: Any,
        cu_seq_k: Any,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> Any:
        told = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa}
        return compute(query, key, value, cu_seq_q, told)

    return torch_2_10 if release is TORCH_2_10 else torch_2_13


@pytest.mark.parametrize("release", [TORCH_2_10, TORCH_2_13], ids=["torch 2.10", "torch 2.13"])
@pytest.mark.parametrize("narrow", [False, True], ids=["one width", "narrower values"])
def test_the_kernel_of_every_release_gives_what_the_plain_path_gives(release: tuple[str, ...], narrow: bool) -> None:
    query, key, value = tensors()
    value = value[..., :6] if narrow else value
    ends = torch.tensor([0, 3, 5, 10], dtype=torch.int32)
    found = by_kernel(kernel_of(release), query, key, value, ends, 8, 0.3, None)
    torch.testing.assert_close(found, by_document(query, key, value, ends, 0.0, 0.3, None))


def test_a_window_of_n_tokens_is_n_minus_one_to_the_left_and_unknown_to_torch_2_10() -> None:
    assert kernel_options(TORCH_2_13, *tensors(), scaling=None, window=5)[3]["window_size"] == (4, 0)
    with pytest.raises(ValueError, match="no window"):
        kernel_options(TORCH_2_10, *tensors(), scaling=None, window=5)


def test_the_installed_kernel_has_the_parameters_it_is_told() -> None:
    import inspect

    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch 2.10 and later have it")
    known = inspect.signature(varlen.varlen_attn).parameters
    _, _, _, options = kernel_options(known, *tensors(), scaling=0.3, window=None)
    assert list(known)[:7] == list(TORCH_2_10[:7])
    assert set(options) <= set(known)
