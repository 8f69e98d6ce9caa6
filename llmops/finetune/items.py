"""The items of a run: which sequences of a token store belong to a row, and how long an item is in a pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from llmops.finetune.lengths import LengthProfile
from llmops.finetune.method import Item
from llmops.finetune.tokens import TokenStore


@dataclass(frozen=True)
class Items:
    """A store of tokens by items; item number i is its sequences from i · `item.sequences` on.

    Attributes:
        lengths: `(items,)` tokens of each in the fuller of its passes.
        weights: `(items,)` how often one epoch sees each.
        trained_counts: `(items,)` labels of each.
    """

    store: TokenStore
    item: Item
    lengths: NDArray[np.int64]
    weights: NDArray[np.float32]
    trained_counts: NDArray[np.int64]

    @classmethod
    def of(cls, store: TokenStore, item: Item) -> Self:
        """All items of a store that was encoded for `item`."""
        trained = len(item.trained)
        lengths = store.lengths.reshape(-1, item.sequences)
        fuller = np.maximum(lengths[:, :trained].sum(axis=1), lengths[:, trained:].sum(axis=1))
        counts = store.trained_counts.reshape(-1, item.sequences)[:, :trained].sum(axis=1)
        return cls(store, item, fuller, store.weights[:: item.sequences], counts)

    def __len__(self) -> int:
        return len(self.lengths)

    def trained(self, number: int) -> range:
        """Numbers of the item's sequences that have a gradient."""
        first = number * self.item.sequences
        return range(first, first + len(self.item.trained))

    def measured(self, number: int) -> range:
        """Numbers of the item's sequences that are computed beforehand."""
        end = (number + 1) * self.item.sequences
        return range(end - len(self.item.measured), end)

    def labels(self, items: Iterable[int], place: int) -> int:
        """Labels of the sequence at `place` of each item, together."""
        return int(self.store.trained_counts[[number * self.item.sequences + place for number in items]].sum())

    def profile(self) -> LengthProfile:
        """Lengths of the sequences one epoch trains on; several an item where its method needs several."""
        places = np.concatenate(
            [np.arange(len(self)) * self.item.sequences + one for one in range(len(self.item.trained))]
        )
        store = self.store
        return LengthProfile.from_rows(
            store.lengths[places].tolist(),
            store.trained_counts[places].tolist(),
            weights=store.weights[places].tolist(),
        )

    def values(self, items: Sequence[int]) -> NDArray[np.float32]:
        """What their rows say of these items, `(items,)`."""
        return self.store.values[np.asarray(items, dtype=np.int64) * self.item.sequences]
