"""The loss and its normalisation, in one place: next-token cross-entropy over trained tokens only.

A step's loss is the sum over all trained tokens of all passes and processes, divided by
their number; how the step was split into passes and processes cannot be seen in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_ROWS = 128
"""Rows of logits come in multiples of this: a CPU's kernels are compiled and kept for every number of rows met."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Σ −log softmax(h Wᵀ)[target], chunk by chunk, its gradients taken in the forward pass.

    The loss is a sum, so its gradients towards `hidden` and `weight` are known up to the
    factor that arrives in the backward pass; logits of one chunk exist at a time and none
    is kept. With p = softmax(h Wᵀ): ∂h = (p − onehot) W, ∂W = (p − onehot)ᵀ h.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        # Logits are multiplied in the dtype of `hidden` (bfloat16 under autocast) and reduced in float32.
        matrix = weight.to(hidden.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        for start in range(0, hidden.shape[0], chunk):
            part, target = hidden[start : start + chunk], targets[start : start + chunk]
            rows = part.shape[0]
            part = nn.functional.pad(part, (0, 0, 0, -rows % _ROWS))
            logits = (part @ matrix.T).float()
            # In place: the largest tensor of the step exists once, and is gone over as few times as possible.
            logits.sub_(logits.amax(dim=-1, keepdim=True))
            chosen = logits[:rows].gather(1, target[:, None])
            norm = logits.exp_().sum(dim=-1, keepdim=True)
            total += (norm[:rows].log() - chosen).sum()
            if to_hidden is None and to_weight is None:
                continue
            slope = logits.div_(norm)
            slope[:rows].scatter_add_(1, target[:, None], torch.full_like(target[:, None], -1, dtype=slope.dtype))
            slope[rows:] = 0.0
            slope = slope.to(hidden.dtype)
            if to_hidden is not None:
                to_hidden[start : start + rows] = (slope @ matrix)[:rows]
            if to_weight is not None:
                to_weight += slope.T @ part
            # Otherwise they would live until the next chunk's are there.
            del logits, slope
        ctx.save_for_backward(*(grad for grad in (to_hidden, to_weight) if grad is not None))
        ctx.wants = (wants_hidden, wants_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        saved = list(ctx.saved_tensors)
        to_hidden = saved.pop(0).mul(scale) if ctx.wants[0] else None
        to_weight = saved.pop(0).mul(scale).to(ctx.weight_dtype) if ctx.wants[1] else None
        return to_hidden, to_weight, None, None


def loss_sum(hidden: Tensor, head: nn.Module, targets: Tensor, *, chunk: int, softcap: float | None = None) -> Tensor:
    """Sum of the negative log-likelihoods of `targets`, in nats, as float32.

    Args:
        hidden: `(tokens, width)` last hidden states of the positions that are trained.
        head: the output layer; a plain linear layer without bias takes the fast path.
        targets: `(tokens,)` the token each position must predict.
        chunk: positions whose logits exist at one time.
        softcap: logits become softcap · tanh(logits / softcap), as Gemma 2 has it.

    Returns:
        A scalar; 0, with a gradient of zero, where no position is trained.
    """
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states but {targets.shape[0]} targets")
    plain = type(head) is nn.Linear and head.bias is None and softcap is None
    if hidden.shape[0] == 0:
        # Every process must take part in the backward pass, also one that holds nothing to train on.
        first = next(head.parameters())
        return hidden.sum().float() * 0.0 + (first.sum().float() * 0.0 if first.requires_grad else 0.0)
    if plain:
        return _ChunkedCrossEntropy.apply(hidden, head.weight, targets, chunk)

    def of_chunk(part: Tensor, target: Tensor) -> Tensor:
        logits = head(part).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return nn.functional.cross_entropy(logits, target, reduction="sum")

    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for start in range(0, hidden.shape[0], chunk):
        total = total + checkpoint(
            of_chunk, hidden[start : start + chunk], targets[start : start + chunk], use_reentrant=False
        )
    return total


def step_scale(trained_tokens: int, *, world: int) -> float:
    """What a pass's `loss_sum` is multiplied by before its backward pass.

    One over the trained tokens of the whole step, over all passes and processes; times
    `world`, since data-parallel averaging divides the summed gradient by it.
    """
    if trained_tokens <= 0:
        raise ValueError("a step without trained tokens has no loss")
    return world / trained_tokens


def mean_loss(total: float, trained_tokens: int) -> float:
    """Nats per trained token."""
    return total / trained_tokens
