"""Who said what of which thing, as numbers: what agreement, consensus and rater reports are computed from.

A label is a category of the rubric: a verdict, a step of a scale, yes or no. Things need not all have been rated by the
same people, nor equally often.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmops.stats import Values

Places = NDArray[np.int64]
"""Positions in a list of names; −1 where there is none."""


@dataclass(frozen=True)
class Votes:
    """Ratings, one row for each; made by `votes_of`.

    Attributes:
        items, raters, labels: `(n,)` each, positions in the three lists of names below.
        item_names, rater_names: in the order they first occur.
        categories: in the order of the scale where it has one.
    """

    items: Places
    raters: Places
    labels: Places
    item_names: tuple[Hashable, ...]
    rater_names: tuple[Hashable, ...]
    categories: tuple[Hashable, ...]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def counts(self) -> Values:
        """`(items, categories)`: how often each thing was said to be each."""
        k = len(self.categories)
        cells = np.bincount(self.items * k + self.labels, minlength=len(self.item_names) * k)
        return cells.reshape(-1, k).astype(np.float64)

    def clusters_of(self, cluster: Mapping[Hashable, Hashable] | None) -> Places | None:
        """`(items,)` a number for each item, equal where `cluster` names them alike; None of None.

        Raises:
            KeyError: an item has no cluster.
        """
        if cluster is None:
            return None
        return places_of([cluster[item] for item in self.item_names])[0]


def votes_of(
    items: Sequence[Hashable],
    raters: Sequence[Hashable],
    labels: Sequence[Hashable],
    *,
    categories: Sequence[Hashable],
) -> Votes:
    """Ratings as columns of equal length: `raters[i]` said `labels[i]` of `items[i]`.

    Raises:
        ValueError: lengths differ, there is nothing, a label is no category (True is not 1), or somebody rated one
            item twice: which of the two holds is for the caller to say.
    """
    if not len(items) == len(raters) == len(labels) or not len(items):
        raise ValueError(f"{len(items)} items, {len(raters)} raters and {len(labels)} labels are no ratings")
    place = {(isinstance(category, bool), category): number for number, category in enumerate(categories)}
    strange = {(isinstance(label, bool), label) for label in labels} - set(place)
    if strange:
        raise ValueError(f"{sorted(repr(label) for _, label in strange)} are no categories")
    item_places, item_names = places_of(items)
    rater_places, rater_names = places_of(raters)
    pairs, first = np.unique(item_places * len(rater_names) + rater_places, return_index=True)
    if len(pairs) < len(items):
        twice = int(np.setdiff1d(np.arange(len(items)), first)[0])
        raise ValueError(f"{raters[twice]!r} rated {items[twice]!r} twice")
    number = {category: at for (_, category), at in place.items()}
    label_places = np.fromiter((number[label] for label in labels), np.int64, len(labels))
    return Votes(item_places, rater_places, label_places, item_names, rater_names, tuple(categories))


def places_of(names: Sequence[Hashable]) -> tuple[Places, tuple[Hashable, ...]]:
    """Each name's position among the distinct ones, `(n,)`, and those in the order they first occur."""
    known: dict[Hashable, int] = {}
    places = np.fromiter((known.setdefault(name, len(known)) for name in names), np.int64, len(names))
    return places, tuple(known)
