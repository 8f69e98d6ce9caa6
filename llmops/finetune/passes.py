"""From items to what a forward pass takes: tokens on the device, where the labels are, what is known of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmops.finetune.attention import attention_inputs
from llmops.finetune.items import Items
from llmops.finetune.model import DTYPES, Placement
from llmops.finetune.order import Group, Order, Update
from llmops.finetune.packing import Batch, collate
from llmops.finetune.parallel import Processes
from llmops.finetune.recipe import Recipe
from llmops.finetune.reference import Reference


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass on the device.

    Attributes:
        inputs: what `LossModel.forward` takes.
        tokens: computed in it, padding left out.
        items: how many of them are in it; 0 where a process only takes part. Each has `together` sequences here.
        labels: `(sequences of these items,)` trained tokens of each, in the order of `inputs["targets"]`.
        values: `(items,)` what their rows say of them.
        reference: `(trained,)` log-probabilities of the targets by the untrained base, where the method asks for them.
        sequences: numbers of the sequences in the store.
    """

    inputs: dict[str, Any]
    tokens: int
    items: int
    together: int
    labels: Tensor
    values: Tensor
    reference: Tensor | None
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes of one update in one process: those with a gradient, and those made before them without one."""

    trained: list[Pass]
    measured: list[Pass]

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in (*self.trained, *self.measured))


class Feed:
    """Makes the passes of this process out of the items of one split.

    Args:
        reference: by the base, of all sequences of the split; None where the method needs none.
    """

    def __init__(
        self,
        items: Items,
        recipe: Recipe,
        *,
        placement: Placement,
        processes: Processes,
        pad_id: int,
        reference: Reference | None = None,
    ) -> None:
        self.items, self.recipe, self.processes = items, recipe, processes
        self.placement, self.pad_id, self.reference = placement, pad_id, reference

    def updates(self, order: Order, after: int) -> Iterator[tuple[Update, Passes]]:
        """Updates with their passes on the device; the next one is prepared while one is computed."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            waiting = None
            for update in order.updates(after):
                prepared = (update, ahead.submit(self._of_update, update))
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = prepared
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def once(self) -> Iterator[Passes]:
        """Every item once, the longest first, each process its share.

        Every process yields equally often, since split weights are gathered together.
        """
        by_length = np.argsort(-self.items.lengths, kind="stable")
        size, world = self.recipe.batch.per_device, self.processes.world
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        for number in range(math.ceil(len(batches) / world)):
            place = number * world + self.processes.rank
            chosen = batches[place] if place < len(batches) else batches[0][:1]
            groups: list[Group] = [(int(item),) for item in chosen]
            yield self._both([(groups, place < len(batches))], packed=False)

    def _of_update(self, update: Update) -> Passes:
        shares = []
        for step in update.passes:
            mine = step[self.processes.rank]
            someone = next(groups for groups in step if groups)
            shares.append((list(mine) or [someone[0]], bool(mine)))
        return self._both(shares, packed=self.recipe.batch.packing)

    def _both(self, shares: Sequence[tuple[list[Group], bool]], *, packed: bool) -> Passes:
        items = self.items
        trained = [self._pass(groups, items.trained, taking_part=mine, packed=packed) for groups, mine in shares]
        measured = (
            [self._pass(groups, items.measured, taking_part=mine, packed=packed) for groups, mine in shares]
            if items.item.measured
            else []
        )
        return Passes(trained, measured)

    def _pass(self, groups: list[Group], part: Any, *, taking_part: bool, packed: bool) -> Pass:
        """Unpacked, every sequence has a line of its own; packed, those of all items of a group share one."""
        lines = [[sequence for item in group for sequence in part(item)] for group in groups]
        sequences = [sequence for line in lines for sequence in line]
        if not packed:
            lines = [[sequence] for sequence in sequences]
        batch = collate(self.items.store, lines, self.pad_id)
        if not taking_part:
            sequences = []
        numbers = [item for group in groups for item in group] if taking_part else []
        device = self.processes.device

        def moved(array: Any) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        asked = _ends(batch, self.pad_id) if self.recipe.scores else _predictions(batch)
        inputs = {
            "input_ids": moved(batch.input_ids),
            # A process that only takes part asks for nothing.
            **{name: moved(one if taking_part else one[:0]) for name, one in asked.items()},
            **attention_inputs(batch, self.placement.attention, device=device, dtype=DTYPES[self.recipe.precision]),
        }
        return Pass(
            inputs=inputs,
            tokens=int((batch.documents >= 0).sum()) if taking_part else 0,
            items=len(numbers),
            together=len(part(0)),
            labels=moved(self.items.store.trained_counts[np.asarray(sequences, dtype=np.int64)]),
            values=moved(self.items.values(numbers)),
            reference=None if self.reference is None else moved(self.reference.of(sequences)),
            sequences=tuple(sequences),
        )


def _predictions(batch: Batch) -> dict[str, NDArray[np.int64]]:
    """The trained tokens, `targets`, and the flat places they are predicted from, `(trained,)` each."""
    flat = np.flatnonzero(batch.trained.ravel())
    # One position before it, which is of its own document: the first token of a document is never trained.
    return {"positions": flat - 1, "targets": batch.input_ids.ravel()[flat]}


def _ends(batch: Batch, pad_id: int) -> dict[str, NDArray[np.int64]]:
    """The flat place of each document's last token, `(documents,)`, in their order.

    As transformers pools when it classifies, the last one that is no padding: where the token that ends an answer
    also pads, that is the one before it.
    """
    counted = np.flatnonzero((batch.documents >= 0).ravel() & (batch.input_ids.ravel() != pad_id))
    line = counted // batch.documents.shape[1]
    document = batch.documents.ravel()[counted]
    last = np.flatnonzero((np.diff(line, append=-1) != 0) | (np.diff(document, append=-1) != 0))
    return {"positions": counted[last]}
