"""Passes over all items of a split without a gradient: the held-out score, and the reference's log-probabilities.

They draw no random number, so that training goes on as if they had not been made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmops.finetune.model import DTYPES, LossModel
from llmops.finetune.objective import Objective, log_probs
from llmops.finetune.parallel import Processes, split_again
from llmops.finetune.passes import Feed, Pass
from llmops.finetune.reference import Reference, read_reference


@dataclass(frozen=True, slots=True)
class Score:
    """Of all held-out items: `loss` as in training, and the objective's measures by name."""

    loss: float
    measures: Mapping[str, float]


def autocast(precision: str, processes: Processes) -> AbstractContextManager[Any]:
    """The arithmetic of a forward pass."""
    dtype = DTYPES[precision]
    return torch.autocast(processes.device.type, dtype=dtype, enabled=dtype != torch.float32)


@torch.no_grad()
def score(model: nn.Module, objective: Objective, feed: Feed) -> Score:
    """Loss and measures over all items of a split, independent of how they are batched."""
    processes, precision = feed.processes, feed.recipe.precision
    totals = objective.totals(feed.items, range(len(feed.items)))
    measured = (one for passes in feed.once() for one in passes.measured) if feed.items.item.measured else ()
    known = known_before(model, objective, measured, processes, precision)
    model.eval()
    total = 0.0
    sums = torch.zeros(len(objective.measures), dtype=torch.float64, device=processes.device)
    for passes in feed.once():
        for one in passes.trained:
            with autocast(precision, processes):
                loss, part = objective.loss(model, one, totals, known)
            total += float(loss)
            sums += part
    split_again(model)
    model.train()
    summed = processes.sum([total, *sums.tolist()])
    return Score(summed[0], objective.report(summed[1:], totals))


@torch.no_grad()
def known_before(
    model: nn.Module, objective: Objective, measured: Iterable[Pass], processes: Processes, precision: str
) -> Tensor:
    """What measured passes say together, over all processes; empty where there is none.

    Leaves the model in evaluation mode where there were some: what is known has no dropout in it.
    """
    total = torch.zeros(0, dtype=torch.float64, device=processes.device)
    for one in measured:
        model.eval()
        with autocast(precision, processes):
            sums = objective.measure(model, one)
        total = total + sums if len(total) else sums
    if not len(total):
        return total
    split_again(model)
    return total.new_tensor(processes.sum(total.tolist()))


@torch.no_grad()
def reference_of(model: nn.Module, inner: LossModel, feed: Feed, path: Path) -> Reference:
    """Log-probabilities of all labels by the base as it is before training, an adapter switched off.

    Read from `path` where they were kept before, else computed now, each process its share, and kept there.

    Args:
        model: `inner`, or what shares it among processes. Nothing of it may have been trained or restored yet.
    """
    processes, store = feed.processes, feed.items.store
    kept = read_reference(path, store)
    # All of them read, or all compute: nobody would wait for those that read.
    missing = processes.largest(float(kept is None))
    if kept is not None and not missing:
        return kept
    found = Reference.empty(store)
    model.eval()
    with inner.untrained():
        for passes in feed.once():
            for one in (*passes.trained, *passes.measured):
                with autocast(feed.recipe.precision, processes):
                    each = log_probs(model, one)
                found.put(one.sequences, each.float().cpu().numpy())
    split_again(model)
    model.train()
    processes.add_up(found.log_probs)
    if processes.first:
        found.save(path)
    return found
