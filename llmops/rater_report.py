"""What one rater's ratings show of the rater: speed, leanings, and agreement with others and with what is known.

Each figure is None where nothing could be measured. A check that could not run is never held against a rater.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmops.consensus import majority_of_others
from llmops.stats import Proportion, Values
from llmops.votes import Votes

Known = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RaterReport:
    """One rater; the shares have Wilson's interval.

    Attributes:
        ratings: how many.
        seconds: the median of the ratings whose time is known.
        shown_first: share that prefers the answer shown first, of those that prefer one. Sides are dealt at random, so
            without a leaning it is a half.
        longer: share that prefers the longer answer, of those that prefer one and whose lengths differ. Longer answers
            may be the better ones: compare it with `others_longer`.
        others_longer: the same of all other raters' ratings.
        agreement: share that says what most of the others say, of things on which the others have a majority.
        gold: share that is right, of things whose right label is known.
        consistency: share that says the same as the same rater did before, of things shown twice.
    """

    rater: Hashable
    ratings: int
    seconds: float | None
    shown_first: Proportion | None
    longer: Proportion | None
    others_longer: Proportion | None
    agreement: Proportion | None
    gold: Proportion | None
    consistency: Proportion | None

    @property
    def leans_to_a_side(self) -> bool | None:
        """Whether the 99 % interval of `shown_first` leaves out a half; None where nothing could be measured.

        Of a hundred raters without a leaning about one is called one.
        """
        if self.shown_first is None:
            return None
        low, high = self.shown_first.interval(0.99)
        return not low <= 0.5 <= high


def rater_reports(
    votes: Votes,
    *,
    seconds: Sequence[float | None] | None = None,
    first_preferred: Sequence[bool | None] | None = None,
    longer_preferred: Sequence[bool | None] | None = None,
    gold: Sequence[Hashable | None] | None = None,
    before: Sequence[Hashable | None] | None = None,
) -> list[RaterReport]:
    """A report of each rater, in the order of `votes.rater_names`.

    Every further column belongs to the ratings, `(n,)`; None in it, or no column, is what could not be measured.

    Args:
        seconds: each rating took.
        first_preferred: whether the answer shown first was preferred; None for a tie, or where no pair was shown.
        longer_preferred: whether the longer one was; None for a tie, equal lengths, or an answer that is no text.
        gold: the right label.
        before: what the same rater said of the same thing the time before.

    Raises:
        ValueError: a column's length is not that of the ratings.
    """
    raters, n = len(votes.rater_names), len(votes)
    for name, column in (
        ("seconds", seconds),
        ("first_preferred", first_preferred),
        ("longer_preferred", longer_preferred),
        ("gold", gold),
        ("before", before),
    ):
        if column is not None and len(column) != n:
            raise ValueError(f"{len(column)} {name} of {n} ratings")
    others = majority_of_others(votes)
    agreeing = _shares(votes, others == votes.labels, others >= 0)
    first = _shares(votes, *_said(first_preferred, n))
    preferred, decided = _said(longer_preferred, n)
    longer, not_theirs = _shares(votes, preferred, decided), _rest(votes, preferred, decided)
    right = _shares(votes, *_matches(votes, gold))
    same = _shares(votes, *_matches(votes, before))
    speed = _medians(votes, seconds)
    numbers = np.bincount(votes.raters, minlength=raters).tolist()
    return [
        RaterReport(
            name,
            ratings=numbers[at],
            seconds=speed[at],
            shown_first=first[at],
            longer=longer[at],
            others_longer=not_theirs[at],
            agreement=agreeing[at],
            gold=right[at],
            consistency=same[at],
        )
        for at, name in enumerate(votes.rater_names)
    ]


def _said(column: Sequence[bool | None] | None, n: int) -> tuple[Known, Known]:
    """Whether true, and whether known."""
    if column is None:
        return np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    known = np.fromiter((one is not None for one in column), bool, n)
    return np.fromiter((bool(one) for one in column), bool, n), known


def _matches(votes: Votes, labels: Sequence[Hashable | None] | None) -> tuple[Known, Known]:
    """Whether what was said is that label, and whether there is one."""
    if labels is None:
        return _said(None, len(votes))
    said = (votes.categories[place] for place in votes.labels.tolist())
    return _said([None if label is None else label == one for label, one in zip(labels, said, strict=True)], len(votes))


def _counts(votes: Votes, true: Known, known: Known) -> tuple[Values, Values]:
    raters = len(votes.rater_names)
    return (
        np.bincount(votes.raters[true & known], minlength=raters).astype(np.float64),
        np.bincount(votes.raters[known], minlength=raters).astype(np.float64),
    )


def _shares(votes: Votes, true: Known, known: Known) -> list[Proportion | None]:
    """Of each rater, how many known ones are true."""
    return [_proportion(*of) for of in zip(*_counts(votes, true, known), strict=True)]


def _rest(votes: Votes, true: Known, known: Known) -> list[Proportion | None]:
    """The same of everybody but each rater."""
    hits, of = _counts(votes, true, known)
    return [_proportion(*rest) for rest in zip(hits.sum() - hits, of.sum() - of, strict=True)]


def _proportion(successes: float, of: float) -> Proportion | None:
    return Proportion(float(successes), int(of)) if of else None


def _medians(votes: Votes, seconds: Sequence[float | None] | None) -> list[float | None]:
    if seconds is None:
        return [None] * len(votes.rater_names)
    times = np.array([np.nan if one is None else one for one in seconds], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(times))
    order = known[np.argsort(votes.raters[known], kind="stable")]
    ends = np.searchsorted(votes.raters[order], np.arange(len(votes.rater_names) + 1))
    return [
        float(np.median(times[order[start:end]])) if end > start else None
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]
