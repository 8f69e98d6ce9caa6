"""What raters together say of each question, and which of their ratings count for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from llmops.consensus import Consensus, consensus
from llmops.feedback.items import Rating
from llmops.feedback.opinions import BETTER, WORTH, comparisons, worths
from llmops.feedback.sides import by_place
from llmops.rubric import Rubric
from llmops.votes import votes_of

Question = tuple[str, int, int] | tuple[str, int]
"""(item, place, place): which of two answers is better; or (item, place): whether an answer is good."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """A rating no row rests on."""

    rating: str
    item: str
    reason: str


@dataclass
class Settled:
    """What raters together say, question by question.

    Attributes:
        said: by question, the answer, how sure it is (0 to 1) and the mean strength in its favour (0 to 1).
        ratings: by question, the ids of the ratings that answered it, and how many of them agree with the outcome.
        method: how it was settled: majority, or Dawid–Skene where raters gave enough.
    """

    said: dict[Question, tuple[str | None, float, float]] = field(default_factory=dict)
    ratings: dict[Question, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    method: dict[str, str] = field(default_factory=dict)


def counted(item: str, ratings: Sequence[Rating]) -> tuple[list[Rating], list[Excluded]]:
    """The ratings of an item that count, the first of each rater, and why the others do not."""
    flags = [one for one in ratings if one.content.get("flag")]
    good: dict[str, Rating] = {}
    out: list[Excluded] = []
    for one in ratings:
        reason = None
        if one.kind == "gold":
            reason = "gold: its answer was known"
        elif flags:
            reason = f"the item was flagged: {flags[0].content['flag']}"
        elif one.kind == "training":
            reason = "practice"
        elif one.said == "skip":
            reason = f"skipped: {one.content['skip']}"
        elif one.surplus:
            reason = "surplus: it came late, and the item had its ratings"
        elif one.kind == "repeat" or one.round > 0 or one.rater in good:
            reason = "asked again, to see whether the rater says the same"
        if reason is None:
            good[one.rater] = one
        else:
            out.append(Excluded(one.id, item, reason))
    return list(good.values()), out


def settle(ratings: Iterable[Rating], rubric: Rubric) -> Settled:
    """Every question answered by all who answered it, weighing raters where there is enough to weigh them by."""
    better, worth = _Answers(), _Answers()
    for item, group in groupby(ratings, key=lambda one: one.item):
        for one in counted(item, tuple(group))[0]:
            verdict = by_place(one.content["verdict"], one.shown)
            for first, second, said, strength in comparisons(verdict, rubric):
                better.add((item, first, second), one, said, strength)
            for place, said_worth in worths(verdict, rubric):
                worth.add((item, place), one, said_worth, 1.0)
    settled = Settled()
    better.into(settled, BETTER, "comparisons")
    worth.into(settled, WORTH, "answers by themselves")
    return settled


class _Answers:
    """Labels of one kind of question as columns."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.raters: list[str] = []
        self.labels: list[str] = []
        self.ids: list[str] = []
        self.strengths: list[float] = []

    def add(self, question: Question, by: Rating, label: str, strength: float) -> None:
        self.questions.append(question)
        self.raters.append(by.rater)
        self.labels.append(label)
        self.ids.append(by.id)
        self.strengths.append(strength)

    def into(self, settled: Settled, categories: tuple[Hashable, ...], name: str) -> None:
        if not self.questions:
            return
        votes = votes_of(self.questions, self.raters, self.labels, categories=categories)
        found: Consensus = consensus(votes)
        settled.method[name] = found.method
        outcome = found.places
        agree = votes.labels == outcome[votes.items]
        # In favour of the outcome less against it: both bad and ties speak for neither side.
        strengths = np.asarray(self.strengths)
        opposed = _opposed(categories)[outcome[votes.items], votes.labels]
        signed = strengths * np.where(agree, 1.0, np.where(opposed, -1.0, 0.0))
        number = np.bincount(votes.items)
        margin = np.bincount(votes.items, signed) / number
        agreeing = np.bincount(votes.items, agree)
        by_item: list[list[str]] = [[] for _ in votes.item_names]
        for place, rating in zip(votes.items.tolist(), self.ids, strict=True):
            by_item[place].append(rating)
        labels, sure = found.labels, found.confidence.tolist()
        for place, question in enumerate(votes.item_names):
            label = labels[place]
            settled.said[question] = (None if label is None else str(label), sure[place], float(margin[place]))  # type: ignore[index]
            settled.ratings[question] = (tuple(by_item[place]), int(agreeing[place]))  # type: ignore[index]


def _opposed(categories: tuple[Hashable, ...]) -> Any:
    """`(outcome, label)`: whether the label says the opposite; the last row is for outcome −1, nothing."""
    size = len(categories)
    table = np.zeros((size + 1, size), dtype=bool)
    for one, other in (("first", "second"), ("good", "bad")):
        if one in categories:
            table[categories.index(one), categories.index(other)] = True
            table[categories.index(other), categories.index(one)] = True
    return table
