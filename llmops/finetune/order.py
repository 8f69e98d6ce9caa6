"""Which rows go into which update: a pure function of lengths, weights, recipe and seed.

Nothing here depends on what was drawn before, so a resumed run meets the very same
batches, and every process knows the whole step without asking the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmops.finetune.packing import best_fit_decreasing
from llmops.finetune.recipe import Batch, Schedule

Group = tuple[int, ...]
"""Rows that share one sequence: one row unpacked, several packed."""


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer update: `passes[k][r]` is what process `r` computes in its forward pass `k`.

    `began` and `epoch` are passes over the data, with fraction, before and after it.

    A pass may be empty for a process when the last update of an epoch has too few
    sequences for all; that process then computes a sequence without trained tokens.
    """

    index: int
    began: float
    epoch: float
    passes: tuple[tuple[tuple[Group, ...], ...], ...]

    @property
    def rows(self) -> list[int]:
        """All rows of the update, over all passes and processes."""
        return [row for step in self.passes for share in step for group in share for row in group]


@dataclass
class Order:
    """The whole course of a run.

    Attributes:
        lengths: `(rows,)` tokens of each row.
        weights: `(rows,)` how often one epoch sees each row.
        widest: sequences of a row that share a pass; a packed sequence is so many times `batch.max_length` long.
    """

    lengths: NDArray[np.int64]
    weights: NDArray[np.float32]
    batch: Batch
    schedule: Schedule
    seed: int
    world: int
    widest: int = 1
    _sizes: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Updates of the whole run.

        A last part of an epoch (`epochs: 2.5`) is rounded up to whole updates.
        """
        if self.schedule.steps is not None:
            return self.schedule.steps
        epochs = 1.0 if self.schedule.epochs is None else self.schedule.epochs
        whole = math.floor(epochs)
        updates = sum(self._updates_in(epoch) for epoch in range(whole))
        part = epochs - whole
        return updates + (math.ceil(part * self._updates_in(whole)) if part > 1e-9 else 0)

    def updates(self, after: int = 0) -> Iterator[Update]:
        """The updates numbered `after + 1` to `total`, in order."""
        index, epoch = 0, 0
        while index < self.total:
            in_epoch = self._updates_in(epoch)
            if index + in_epoch > after:
                groups = self.groups(epoch)
                for number in range(in_epoch):
                    index += 1
                    if index > self.total:
                        return
                    if index > after:
                        chosen = groups[number * self.batch.sequences : (number + 1) * self.batch.sequences]
                        began, ended = epoch + number / in_epoch, epoch + (number + 1) / in_epoch
                        yield Update(index, began, ended, self._shares(chosen))
            else:
                index += in_epoch
            epoch += 1

    def groups(self, epoch: int) -> list[Group]:
        """The sequences of one epoch in the order they are trained.

        The first epoch begins with the longest ones, a whole update of them, so that memory
        runs out at the first update or not at all, and so that an update holds the same rows
        however it is split into passes and processes.
        """
        rows = self._rows_of(epoch)
        draw = np.random.default_rng([self.seed, epoch])
        rows = rows[draw.permutation(len(rows))]
        if self.batch.packing:
            packs = best_fit_decreasing([int(n) for n in self.lengths[rows]], self._capacity)
            groups = [tuple(int(rows[place]) for place in pack) for pack in packs]
            # Best fit fills in order of length; without a second draw the early updates would see only long rows.
            groups = [groups[place] for place in draw.permutation(len(groups))]
        else:
            groups = [(int(row),) for row in rows]
        if epoch == 0:
            sizes = [int(self.lengths[list(group)].sum()) for group in groups]
            longest = sorted(range(len(groups)), key=lambda place: -sizes[place])
            longest = longest[: self.batch.sequences]
            chosen = set(longest)
            groups = [groups[place] for place in longest] + [
                group for place, group in enumerate(groups) if place not in chosen
            ]
        return groups

    @property
    def _capacity(self) -> int:
        return self.batch.max_length * self.widest

    def _rows_of(self, epoch: int) -> NDArray[np.int64]:
        """Rows one epoch sees; a weight's whole part repeats a row, its fraction spreads it evenly over epochs."""
        if np.all(self.weights == 1):
            return np.arange(len(self.lengths))
        phase = np.random.default_rng([self.seed, 1 << 32]).random(len(self.lengths))
        weights = self.weights.astype(np.float64)
        times = np.floor(phase + (epoch + 1) * weights) - np.floor(phase + epoch * weights)
        return np.repeat(np.arange(len(self.lengths)), times.astype(np.int64))

    def _updates_in(self, epoch: int) -> int:
        key = 0 if np.all(self.weights == np.floor(self.weights)) else epoch
        if key not in self._sizes:
            rows = self._rows_of(key)
            if self.batch.packing:
                # How many sequences there are depends on the lengths alone, not on their order.
                sequences = len(best_fit_decreasing([int(n) for n in self.lengths[rows]], self._capacity))
            else:
                sequences = len(rows)
            self._sizes[key] = max(1, math.ceil(sequences / self.batch.sequences))
        return self._sizes[key]

    def _shares(self, groups: Sequence[Group]) -> tuple[tuple[tuple[Group, ...], ...], ...]:
        at_once = self.batch.per_device * self.world
        passes = []
        for start in range(0, max(len(groups), 1), at_once):
            taken = groups[start : start + at_once]
            passes.append(
                tuple(
                    tuple(taken[rank * self.batch.per_device : (rank + 1) * self.batch.per_device])
                    for rank in range(self.world)
                )
            )
        return tuple(passes)
