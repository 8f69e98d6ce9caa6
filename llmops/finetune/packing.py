"""Which rows share a sequence, and how sequences become one rectangle of tokens. Knows lengths and ids, no model."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmops.finetune.lengths import padded


class Rows(Protocol):
    """Whatever hands out ids and label marks of a row by its number; a `TokenStore`."""

    def row(self, index: int, /) -> tuple[NDArray[np.int32], NDArray[np.bool_]]: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one length, padded on the right; `(sequences, length)` each.

    Attributes:
        input_ids: tokens.
        trained: true where the token itself is a label, predicted from the position before it; never at
            the first token of a document, nor at padding.
        position_ids: from 0 in every document; padding counts on from the last one.
        documents: number of the document within its sequence, from 0; -1 at padding.
    """

    input_ids: NDArray[np.int64]
    trained: NDArray[np.bool_]
    position_ids: NDArray[np.int64]
    documents: NDArray[np.int32]

    @property
    def packed(self) -> bool:
        """Whether a sequence holds more than one document."""
        return bool(self.documents.max(initial=-1) > 0)

    @property
    def padded(self) -> bool:
        return bool((self.documents < 0).any())


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row numbers: the longest row first, each into the fullest bin that still has room for it.

    The same lengths give the same bins; of rows of one length the earlier goes first. At most
    11/9 of the fewest bins possible, plus one (Johnson 1973). O(n log n).

    Raises:
        ValueError: a row is longer than `capacity`, or empty.
    """
    bins: list[list[int]] = []
    if not len(lengths):
        return bins
    if max(lengths) > capacity or min(lengths) < 1:
        raise ValueError(f"rows must have 1 to {capacity} tokens, not {min(lengths)} to {max(lengths)}")
    open_bins: dict[int, list[int]] = {}  # room left -> bins that have just that
    rooms: list[int] = []  # its keys, sorted; never more than `capacity`
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(rooms, lengths[row])
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], rooms[place]
        bins[chosen].append(row)
        if left := room - lengths[row]:
            if left not in open_bins:
                insort(rooms, left)
                open_bins[left] = []
            open_bins[left].append(chosen)
    return bins


def utilisation(lengths: Sequence[int], bins: Sequence[Sequence[int]], capacity: int) -> float:
    """Share of all places of the bins that hold a token, 0 to 1; 1 where there is no bin."""
    return sum(lengths[row] for one in bins for row in one) / (capacity * len(bins)) if bins else 1.0


def collate(store: Rows, sequences: list[list[int]], pad_id: int, multiple_of: int | None = None) -> Batch:
    """Rows to a batch: each sequence is its rows one after another, padded on the right to the longest.

    One row each is an unpacked batch. The length is a multiple of `multiple_of`; None takes what `padded` says.

    Raises:
        ValueError: a sequence holds no row.
    """
    if not sequences or not all(sequences):
        raise ValueError("a batch needs sequences, and each of them a row")
    rows = [[store.row(index) for index in sequence] for sequence in sequences]
    longest = max(sum(len(ids) for ids, _ in sequence) for sequence in rows)
    width = padded(longest) if multiple_of is None else -(-longest // multiple_of) * multiple_of
    shape = (len(rows), width)
    batch = Batch(
        input_ids=np.full(shape, pad_id, dtype=np.int64),
        trained=np.zeros(shape, dtype=np.bool_),
        position_ids=np.zeros(shape, dtype=np.int64),
        documents=np.full(shape, -1, dtype=np.int32),
    )
    for line, sequence in enumerate(rows):
        begin = 0
        for number, (ids, trained) in enumerate(sequence):
            end = begin + len(ids)
            batch.input_ids[line, begin:end] = ids
            batch.trained[line, begin:end] = trained
            # What stands before the first token is another document.
            batch.trained[line, begin] = False
            batch.documents[line, begin:end] = number
            batch.position_ids[line, begin:] = np.arange(shape[1] - begin)
            begin = end
    return batch
