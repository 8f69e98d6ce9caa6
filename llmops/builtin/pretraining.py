"""Pre-training of an embedded base: a plain loop on the CPU, the same weights for the same definition,
machine and thread count."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmops.builtin.definition import Definition
from llmops.builtin.domains import conversations
from llmops.builtin.tokenizer import PAD, SPECIAL, encode_turns

if TYPE_CHECKING:
    import torch

PROMPT_WEIGHT = 0.1
"""Weight of a token that the assistant does not say: what users write is invented, little can be learned from it."""

_WIDTH = 8
"""Lengths are rounded up to a multiple of this: few distinct shapes, each compiled once by the CPU's kernels."""
_ROWS = 4
"""Conversations in a batch come in multiples of this, so that a batch's tokens are a multiple of 32."""


def pretrain(definition: Definition, tokenizer: Any, on_step: Callable[[int, float], None]) -> Any:
    """A `LlamaForCausalLM` trained for `definition.steps` updates; `on_step` hears each step and its loss.

    Muon (Jordan et al. 2024) moves the matrices: on so few tokens a model learns to copy names from its prompt in
    about half the updates that AdamW needs.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # The caller's random numbers go on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(definition.seed)
        model = LlamaForCausalLM(LlamaConfig(**definition.config(), attn_implementation="sdpa"))
    model.train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    vectors = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=definition.matrix_rate, weight_decay=definition.weight_decay),
        torch.optim.AdamW(vectors, lr=definition.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    half = _bf16_is_fast()
    batches = _batches(definition, tokenizer)
    for step in range(1, definition.steps + 1):
        share = _share_of_peak(step, definition)
        for optimizer, peak in zip(optimizers, (definition.matrix_rate, definition.vector_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
        ids, weights = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = model(input_ids=ids, use_cache=False).logits
        # The last position predicts nothing; keeping it keeps the shapes round.
        wanted = torch.nn.functional.pad(ids[:, 1:], (0, 1))
        weight = torch.nn.functional.pad(weights[:, 1:], (0, 1))
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        loss = (losses * weight.flatten()).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        on_step(step, loss.item())
    return model.eval()


def _share_of_peak(step: int, definition: Definition) -> float:
    """Learning rate of `step` (from 1) over its peak: a rise over the warm-up, then a cosine down to a tenth."""
    rise = max(1, round(definition.warmup * definition.steps))
    if step <= rise:
        return step / rise
    done = (step - rise) / max(1, definition.steps - rise)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _batches(definition: Definition, tokenizer: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `(rows, width)` ids and loss weights, each batch of conversations of about one length.

    Padding is at the end, where causal attention never looks: conversations stay apart without a mask.
    """
    import torch

    padding = SPECIAL.index(PAD)
    waiting: defaultdict[int, list[tuple[list[int], list[float]]]] = defaultdict(list)
    for turns in conversations(definition.seed):
        ids, said = encode_turns(tokenizer, turns)
        width = -(-len(ids) // _WIDTH) * _WIDTH
        free = width - len(ids)
        weights = [1.0 if spoken else PROMPT_WEIGHT for spoken in said]
        waiting[width].append((ids + [padding] * free, weights + [0.0] * free))
        rows = max(_ROWS, definition.tokens // width // _ROWS * _ROWS)
        if len(waiting[width]) == rows:
            batch = waiting.pop(width)
            yield torch.tensor([row for row, _ in batch]), torch.tensor([row for _, row in batch])


def _bf16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 itself; elsewhere it is emulated, slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported())
