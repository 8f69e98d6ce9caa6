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


def _rows_of_logits(
    part: Tensor, matrix: Tensor, target: Tensor, *, slopes: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One chunk: its rows filled up to `_ROWS`, the losses of its own rows, and p − onehot where asked for.

    Args:
        part: `(rows, width)` hidden states, `matrix` `(vocabulary, width)`, both in the dtype of the product.

    Returns:
        `(filled, width)`, `(rows,)` in float32, `(filled, vocabulary)` in the dtype of the product.
    """
    rows = part.shape[0]
    part = nn.functional.pad(part, (0, 0, 0, -rows % _ROWS))
    logits = (part @ matrix.T).float()
    # In place: the largest tensor of the step exists once, and is gone over as few times as possible.
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    chosen = logits[:rows].gather(1, target[:, None])
    norm = logits.exp_().sum(dim=-1, keepdim=True)
    losses = (norm[:rows].log() - chosen)[:, 0]
    if not slopes:
        return part, losses, None
    slope = logits.div_(norm)
    slope[:rows].scatter_add_(1, target[:, None], torch.full_like(target[:, None], -1, dtype=slope.dtype))
    slope[rows:] = 0.0
    return part, losses, slope.to(part.dtype)


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
            target = targets[start : start + chunk]
            wants = wants_hidden or wants_weight
            part, losses, slope = _rows_of_logits(hidden[start : start + chunk], matrix, target, slopes=wants)
            total += losses.sum()
            if to_hidden is not None:
                to_hidden[start : start + len(target)] = (slope @ matrix)[: len(target)]
            if to_weight is not None and slope is not None:
                to_weight += slope.T @ part
            # Otherwise they would live until the next chunk's are there.
            del slope, losses, part
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


class _ChunkedTokenLosses(torch.autograd.Function):
    """−log softmax(h Wᵀ)[target] of each token, chunk by chunk.

    The gradient towards `hidden` is taken in the forward pass: each row of it waits for a factor of its own. That
    towards `weight` sums over tokens and cannot wait: where it is wanted, logits are computed a second time in the
    backward pass, again one chunk at a time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        matrix = weight.to(hidden.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        for start in range(0, hidden.shape[0], chunk):
            target = targets[start : start + chunk]
            rows = slice(start, start + len(target))
            _, losses[rows], slope = _rows_of_logits(hidden[rows], matrix, target, slopes=wants_hidden)
            if to_hidden is not None:
                to_hidden[rows] = (slope @ matrix)[: len(target)]
            del slope
        kept = [to_hidden] if to_hidden is not None else []
        ctx.save_for_backward(*kept, *([hidden, weight, targets] if wants_weight else []))
        ctx.wants, ctx.chunk = (wants_hidden, wants_weight), chunk
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (factors,) = grads
        saved = list(ctx.saved_tensors)
        to_hidden = saved.pop(0) if ctx.wants[0] else None
        if to_hidden is not None:
            to_hidden = (to_hidden * factors[:, None]).to(to_hidden.dtype)
        if not ctx.wants[1]:
            return to_hidden, None, None, None
        hidden, weight, targets = saved
        matrix = weight.to(hidden.dtype)
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], ctx.chunk):
            target = targets[start : start + ctx.chunk]
            rows = slice(start, start + len(target))
            part, _, slope = _rows_of_logits(hidden[rows], matrix, target, slopes=True)
            assert slope is not None
            slope[: len(target)] *= factors[rows, None].to(slope.dtype)
            to_weight += slope.T @ part
            del part, slope
        return to_hidden, to_weight.to(weight.dtype), None, None


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
    _check(hidden, targets)
    if hidden.shape[0] == 0:
        return _nothing(hidden, head)
    if _is_plain(head, softcap):
        return _ChunkedCrossEntropy.apply(hidden, head.weight, targets, chunk)
    return _by_chunks(hidden, head, targets, chunk, softcap).sum()


def token_losses(
    hidden: Tensor, head: nn.Module, targets: Tensor, *, chunk: int, softcap: float | None = None
) -> Tensor:
    """The negative log-likelihood of each of `targets`, in nats: `(tokens,)`, float32.

    Arguments as those of `loss_sum`, which is their sum. What a method makes of the log-probabilities of whole
    answers begins here; where the output layer is trained its logits are computed twice.

    Returns:
        An empty tensor, with a gradient of zero, where no position is trained.
    """
    _check(hidden, targets)
    if hidden.shape[0] == 0:
        return _nothing(hidden, head).expand(0)
    if _is_plain(head, softcap):
        return _ChunkedTokenLosses.apply(hidden, head.weight, targets, chunk)
    return _by_chunks(hidden, head, targets, chunk, softcap)


def _check(hidden: Tensor, targets: Tensor) -> None:
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states but {targets.shape[0]} targets")


def _is_plain(head: nn.Module, softcap: float | None) -> bool:
    return type(head) is nn.Linear and head.bias is None and softcap is None


def _nothing(hidden: Tensor, head: nn.Module) -> Tensor:
    """Zero, with a gradient: every process must take part in the backward pass, also one that has nothing to train."""
    first = next(head.parameters())
    return hidden.sum().float() * 0.0 + (first.sum().float() * 0.0 if first.requires_grad else 0.0)


def _by_chunks(hidden: Tensor, head: nn.Module, targets: Tensor, chunk: int, softcap: float | None) -> Tensor:
    """Losses of each token under any output layer; logits of a chunk are computed again in the backward pass."""

    def of_chunk(part: Tensor, target: Tensor) -> Tensor:
        logits = head(part).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return nn.functional.cross_entropy(logits, target, reduction="none")

    return torch.cat(
        [
            checkpoint(of_chunk, hidden[start : start + chunk], targets[start : start + chunk], use_reentrant=False)
            for start in range(0, hidden.shape[0], chunk)
        ]
    )


def step_scale(trained_tokens: int) -> float:
    """What a pass's `loss_sum` is multiplied by: one over the trained tokens of the whole step, over all passes and
    processes."""
    if trained_tokens <= 0:
        raise ValueError("a step without trained tokens has no loss")
    return 1 / trained_tokens
