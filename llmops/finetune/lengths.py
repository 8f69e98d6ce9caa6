"""How long the rows of an epoch are: what a plan needs to know of the data, and nothing more."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from llmops.finetune.method import Grpo


def padded(length: float) -> int:
    """The width of a batch whose longest sequence has `length` tokens.

    A multiple of eight, as tensor cores want it, and one of at most 16 between a power of two and the next: a CPU's
    kernels are compiled and kept for every width met, a GPU's are tuned for it.
    """
    step = max(8, (1 << max(0, math.ceil(length) - 1).bit_length()) // 32)
    return -(-math.ceil(length) // step) * step


@dataclass(frozen=True, slots=True)
class LengthProfile:
    """Rows of one epoch by length.

    Attributes:
        counts: `(tokens, rows)`, lengths rising; rows may be fractions where they are estimated or weighted.
        trained_tokens: labels of one epoch.
        origin: where the numbers are from, as a reader should see it.
        exact: measured on all rows, not estimated.
    """

    counts: tuple[tuple[int, float], ...]
    trained_tokens: float
    origin: str
    exact: bool

    @classmethod
    def from_rows(
        cls,
        lengths: Iterable[int],
        trained: Iterable[int],
        *,
        weights: Sequence[float] | None = None,
        times: float = 1.0,
        origin: str = "counted on all rows",
        exact: bool = True,
    ) -> Self:
        """The profile of rows with these lengths and numbers of labels.

        Args:
            weights: how often one epoch sees each; None means once.
            times: rows that each of them stands for.
        """
        by_length: Counter[int] = Counter()
        labels = 0.0
        for place, (length, label) in enumerate(zip(lengths, trained, strict=True)):
            rows = times * (1.0 if weights is None else float(weights[place]))
            by_length[int(length)] += rows  # type: ignore[assignment]
            labels += rows * int(label)
        return cls(tuple(sorted(by_length.items())), labels, origin, exact)

    @classmethod
    def full(cls, rows: int, length: int, *, origin: str) -> Self:
        """`rows` rows that are all as long as they may be and trained on every token but the first."""
        return cls(((length, float(rows)),), rows * (length - 1), origin, exact=False)

    @property
    def rows(self) -> float:
        return sum(rows for _, rows in self.counts)

    @property
    def tokens(self) -> float:
        return sum(length * rows for length, rows in self.counts)

    @property
    def squares(self) -> float:
        """Σ length², to which attention's work is proportional."""
        return sum(length * length * rows for length, rows in self.counts)

    @property
    def longest(self) -> int:
        return self.counts[-1][0] if self.counts else 0

    @property
    def trained_share(self) -> float:
        return self.trained_tokens / self.tokens if self.tokens else 0.0

    def percentile(self, share: float) -> int:
        """The length that `share` (0 to 1) of the rows do not exceed."""
        below = 0.0
        for length, rows in self.counts:
            below += rows
            if below >= share * self.rows - 1e-9:
                return length
        return self.longest

    def longest_of(self, rows: int) -> float:
        """Expected length of the longest of so many rows drawn at random: what they are padded to.

        Σ length · (F(length)^rows − F(previous)^rows) with F the share of rows up to a length.
        """
        total, below, expected, before = self.rows, 0.0, 0.0, 0.0
        for length, count in self.counts:
            below += count
            now = min(1.0, below / total) ** rows
            expected += length * (now - before)
            before = now
        return expected

    def widths(self, rows: int, batches: float) -> float:
        """Expected number of different widths among so many batches of so many rows drawn at random."""
        shares: dict[int, float] = {}
        below, before = 0.0, 0.0
        for length, count in self.counts:
            below += count
            now = min(1.0, below / self.rows) ** rows
            shares[padded(length)] = shares.get(padded(length), 0.0) + now - before
            before = now
        return sum(1.0 - (1.0 - min(1.0, share)) ** batches for share in shares.values())

    def packed_sequences(self, capacity: int) -> int:
        """Sequences that best-fit-decreasing packing makes of one epoch.

        Rows of one length are placed together, so the cost grows with the number of different
        lengths, not of rows: the tightest room takes as many as fit before any other is looked at.

        Raises:
            ValueError: a row is longer than `capacity`.
        """
        if self.longest > capacity:
            raise ValueError(f"a row of {self.longest} tokens does not fit into {capacity}")
        rooms: list[int] = []
        open_bins: dict[int, int] = {}
        bins = 0

        def leave(room: int, number: int) -> None:
            if room and number:
                if room not in open_bins:
                    insort(rooms, room)
                    open_bins[room] = 0
                open_bins[room] += number

        for length, rows in reversed(self.counts):
            left = math.ceil(rows - 1e-6)
            while left:
                place = bisect_left(rooms, length)
                if place == len(rooms):
                    each = capacity // length
                    whole, rest = divmod(left, each)
                    bins += whole + (1 if rest else 0)
                    leave(capacity - each * length, whole)
                    if rest:
                        leave(capacity - rest * length, 1)
                    break
                room = rooms[place]
                each = room // length
                filled = min(open_bins[room], left // each)
                if filled:
                    taken = filled
                    leave_room, placed = room - each * length, filled * each
                else:
                    taken, placed = 1, left
                    leave_room = room - left * length
                open_bins[room] -= taken
                if not open_bins[room]:
                    del open_bins[room], rooms[place]
                leave(leave_room, taken)
                left -= placed
        return bins


def answered_by_the_model(lengths: Sequence[int], labels: Sequence[int], method: Grpo) -> LengthProfile:
    """What one epoch of rows becomes where the model answers their prompts itself: as many sequences as there are
    answers, each taken to be as long as it may be.

    Args:
        lengths, labels: tokens of each row, and those of its own answer, which is only compared with.
    """
    prompts = [int(length) - int(label) for length, label in zip(lengths, labels, strict=True)]
    times = float(method.generations * method.iterations)
    return LengthProfile.from_rows(
        [prompt + method.max_tokens for prompt in prompts],
        [method.max_tokens] * len(prompts),
        weights=[times] * len(prompts),
        origin=f"every answer as long as it may be ({method.max_tokens} tokens)",
        exact=False,
    )
