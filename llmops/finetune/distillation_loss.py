"""The loss of a student beside its teacher: next-token cross-entropy and the distance of two distributions.

Hinton et al. 2015, arXiv:1503.02531, over trained tokens only. Logits of both exist for one chunk of them at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, pad
from torch.utils.checkpoint import checkpoint

from llmops.finetune.distillation import Logits

_ROWS = 128
"""As in `losses.py`: a CPU's kernels are compiled and kept for every number of rows met."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher makes of the positions that are trained: logits are `head(hidden)`, squashed by `softcap`.

    Attributes:
        hidden: `(tokens, width of the teacher)`, without a gradient.
    """

    hidden: Tensor
    head: nn.Module
    softcap: float | None

    @torch.no_grad()
    def logits(self, rows: slice) -> Tensor:
        """`(rows, vocabulary of the teacher)` in float32."""
        return _squashed(self.head(self.hidden[rows]), self.softcap)


def distillation_sums(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    taught: Taught,
    method: Logits,
    *,
    chunk: int,
    softcap: float | None = None,
) -> Tensor:
    """Sums over the trained tokens, in nats, float32: the loss, its cross-entropy, its divergence; `(3,)`.

    loss = (1 − α) · CE + α · T² · D, with D = KL(q ‖ p) forwards or KL(p ‖ q) in reverse, where p and q are the
    student's and the teacher's softmax of logits / T. T² keeps the gradient of D at the size of that of CE (sec. 2).
    Only the loss has a gradient. Where the two models have vocabularies of different sizes, as their matrices are
    filled up, D is over the tokens that both have.

    Args:
        hidden: `(tokens, width)` last hidden states of the student.
        head: its output layer; a plain linear layer without bias takes the fast path.
        targets: `(tokens,)` the token each position must predict.
        chunk: positions whose logits exist at one time.

    Returns:
        Zeros, with a gradient of zero, where no position is trained.
    """
    if not hidden.shape[0] == targets.shape[0] == taught.hidden.shape[0]:
        raise ValueError(f"{len(hidden)} hidden states, {len(taught.hidden)} of the teacher and {len(targets)} targets")
    if hidden.shape[0] == 0:
        # Every process must take part in the backward pass, also one that holds nothing to train on.
        nothing = hidden.sum().float() * 0.0 + next(head.parameters()).sum().float() * 0.0
        return torch.stack([nothing, nothing.detach(), nothing.detach()])
    if type(head) is nn.Linear and head.bias is None and softcap is None:
        return _Chunked.apply(hidden, head.weight, targets, taught, method, chunk)

    def of_chunk(part: Tensor, target: Tensor, rows: slice) -> Tensor:
        logits = _squashed(head(part), softcap)
        said = cross_entropy(logits, target, reduction="sum")
        divergence, _ = _divergence(logits, taught.logits(rows), method, slopes=False)
        return torch.stack([_weighed(said, divergence, method), said.detach(), divergence.detach()])

    total = torch.zeros(3, dtype=torch.float32, device=hidden.device)
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, min(start + chunk, hidden.shape[0]))
        total = total + checkpoint(of_chunk, hidden[rows], targets[rows], rows, use_reentrant=False)
    return total


class _Chunked(torch.autograd.Function):
    """The sums chunk by chunk, the loss's gradients taken in the forward pass as those of the plain loss are.

    Towards the student's logits z: (1 − α)(softmax(z) − onehot) + α T² · ∂D/∂z.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, taught: Taught, method: Logits, chunk: int
    ) -> Tensor:
        # Logits are multiplied in the dtype of `hidden` (bfloat16 under autocast) and reduced in float32.
        matrix = weight.to(hidden.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        total = torch.zeros(3, dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, min(start + chunk, hidden.shape[0]))
            own = rows.stop - rows.start
            part = pad(hidden[rows], (0, 0, 0, -own % _ROWS))
            logits = (part @ matrix.T).float()[:own]
            said, slope = _said(logits, targets[rows], method)
            divergence, pull = _divergence(logits, taught.logits(rows), method, slopes=True)
            assert pull is not None
            total += torch.stack([_weighed(said, divergence, method), said, divergence])
            slope[:, : pull.shape[1]] += pull.mul_(method.alpha * method.temperature**2)
            slope = pad(slope, (0, 0, 0, -own % _ROWS)).to(hidden.dtype)
            if to_hidden is not None:
                to_hidden[rows] = (slope @ matrix)[:own]
            if to_weight is not None:
                to_weight += slope.T @ part
            # Otherwise they would live until the next chunk's are there.
            del logits, slope, pull, part
        ctx.save_for_backward(*(grad for grad in (to_hidden, to_weight) if grad is not None))
        ctx.wants = (wants_hidden, wants_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        scale = grads[0][0]  # of the loss; the other two sums only tell
        saved = list(ctx.saved_tensors)
        to_hidden = saved.pop(0).mul(scale) if ctx.wants[0] else None
        to_weight = saved.pop(0).mul(scale).to(ctx.weight_dtype) if ctx.wants[1] else None
        return to_hidden, to_weight, None, None, None, None


def _weighed(said: Tensor, divergence: Tensor, method: Logits) -> Tensor:
    return (1 - method.alpha) * said + method.alpha * method.temperature**2 * divergence


def _said(logits: Tensor, targets: Tensor, method: Logits) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies, and its gradient towards the logits times its weight."""
    log_p = log_softmax(logits, dim=-1)
    said = -log_p.gather(1, targets[:, None]).sum()
    slope = log_p.exp_()
    slope.scatter_add_(1, targets[:, None], torch.full_like(targets[:, None], -1, dtype=slope.dtype))
    return said, slope.mul_(1 - method.alpha)


def _divergence(logits: Tensor, told: Tensor, method: Logits, *, slopes: bool) -> tuple[Tensor, Tensor | None]:
    """Sum of D over rows, and its gradient towards the student's logits where asked for.

    With p, q of logits / T: ∂KL(q ‖ p)/∂z = (p − q) / T and ∂KL(p ‖ q)/∂z = p · (log p − log q − KL(p ‖ q)) / T.
    """
    both = min(logits.shape[-1], told.shape[-1])
    log_p = log_softmax(logits[:, :both] / method.temperature, dim=-1)
    log_q = log_softmax(told[:, :both] / method.temperature, dim=-1)
    if method.divergence == "forward":
        each = (log_q.exp() * (log_q - log_p)).sum(dim=-1)
        slope = log_p.exp_().sub_(log_q.exp_()) if slopes else None
    else:
        ratio = log_p - log_q
        each = (log_p.exp() * ratio).sum(dim=-1)
        slope = log_p.exp_().mul_(ratio - each[:, None]) if slopes else None
    return each.sum(), None if slope is None else slope.div_(method.temperature)


def _squashed(logits: Tensor, softcap: float | None) -> Tensor:
    logits = logits.float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
