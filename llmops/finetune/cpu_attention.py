"""Causal attention on a CPU in 16 bits: torch's fused kernel forwards, plain matrix products backwards.

torch's fused backward pass for the CPU takes several times as long as the products it
stands for while documents are short; the forward pass does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHORT = 160
"""Tokens up to which products win; measured on a machine with AVX-512 and AMX, where they tie between 160 and 192."""


def causal(query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, dropout: float = 0.0) -> Tensor:
    """Causal attention of `(documents, heads, length, width)`, by products where these are faster.

    `key` and `value` may have fewer heads than `query`, a whole fraction of them.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    by_products = (
        query.device.type == "cpu"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[2] <= SHORT
        and not dropout
        and query.requires_grad
        and key.requires_grad
        and value.requires_grad
    )
    if by_products:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        mixed: Tensor = _Products.apply(query, key, value, scale)
        return mixed
    return nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling
    )


class _Products(torch.autograd.Function):
    """softmax(s · Q Kᵀ + causal) V. With P the probabilities and δ = Σ dO ∘ O along the width:

    dV = Pᵀ dO, dS = P ∘ (dO Vᵀ − δ), dQ = s · dS K, dK = s · dSᵀ Q (Dao et al. 2022, arXiv:2205.14135, appendix B).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        mixed, log_norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, True, scale=scale
        )
        ctx.save_for_backward(query, key, value, mixed, log_norm)
        ctx.scale = scale
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        query, key, value, mixed, log_norm = ctx.saved_tensors
        length = query.shape[2]
        # Scores are exponentiated, and dO Vᵀ − δ is a small difference of large numbers: both in 32 bits.
        scores = torch.matmul(query.float(), key.float().transpose(-1, -2)).mul_(ctx.scale)
        later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu_(1)
        chances = scores.sub_(log_norm.unsqueeze(-1)).exp_().masked_fill_(later, 0.0)
        low = chances.to(grad.dtype)
        to_value = low.transpose(-1, -2) @ grad
        delta = (grad.float() * mixed.float()).sum(-1, keepdim=True)
        slope = (
            torch.matmul(grad.float(), value.float().transpose(-1, -2))
            .sub_(delta)
            .mul_(chances)
            .mul_(ctx.scale)
            .to(grad.dtype)
        )
        return slope @ key, slope.transpose(-1, -2) @ query, to_value, None
