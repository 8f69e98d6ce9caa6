"""Verdicts as what rows are made of: which of two answers is better, and whether an answer is good.

A question is (item, place, place) or (item, place); each rater's verdict answers some of them with a label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Literal

from llmops.rubric import Attributes, Likert, Rubric, value_of

Better = Literal["first", "second", "tie", "both bad"]
BETTER: tuple[Better, ...] = ("first", "tie", "second", "both bad")
Worth = Literal["good", "neither", "bad"]
WORTH: tuple[Worth, ...] = ("good", "neither", "bad")

_GOOD, _BAD = 0.75, 0.25
"""On a scale from 0 (worst) to 1: from where on an answer is good, and up to where it is bad."""
_STEPS = 3


def comparisons(verdict: Mapping[str, Any], rubric: Rubric) -> Iterator[tuple[int, int, Better, float]]:
    """`(place, place, which is better, by how much)`; the last from 0 (alike) to 1 (much better).

    A ranking says of all pairs which is better, and that an answer in order is better than an invalid one; scores say
    it of all pairs of answers with scores that differ.
    """
    match verdict["kind"]:
        case "pairwise":
            step = verdict["step"]
            if verdict["both_bad"]:
                yield 0, 1, "both bad", 0.0
            else:
                yield 0, 1, _sign(step), abs(step) / _STEPS
        case "ranking":
            ranks = {place: rank for rank, group in enumerate(verdict["groups"]) for place in group}
            last = len(verdict["groups"])
            for one, two in combinations(sorted([*ranks, *verdict["invalid"]]), 2):
                if one in ranks or two in ranks:
                    ahead = ranks.get(two, last) - ranks.get(one, last)
                    yield one, two, _sign(ahead), abs(ahead) / max(last, 1)
                else:
                    yield one, two, "both bad", 0.0
        case "rating":
            values = values_of(verdict, rubric)
            for one, two in combinations(range(len(values)), 2):
                yield one, two, _sign(values[one] - values[two]), abs(values[one] - values[two])


def worths(verdict: Mapping[str, Any], rubric: Rubric) -> Iterator[tuple[int, Worth]]:
    """`(place, whether the answer is good)`, of verdicts on each answer by itself; comparing does not say it."""
    match verdict["kind"]:
        case "rating":
            for place, value in enumerate(values_of(verdict, rubric)):
                yield place, "good" if value >= _GOOD else "bad" if value <= _BAD else "neither"
        case "thumbs":
            yield 0, "good" if verdict["up"] else "bad"
        case "correction":
            yield 0, "good" if verdict["text"] is None else "bad"


def values_of(verdict: Mapping[str, Any], rubric: Rubric) -> list[float]:
    """The scores of a verdict, each from 0 (worst) to 1."""
    assert isinstance(rubric.scale, Likert | Attributes)
    return [value_of(rubric.scale, score) for score in verdict["scores"]]


def edits(content: Mapping[str, Any], shown: tuple[int, ...]) -> Iterator[tuple[int, str]]:
    """`(place, text)` of each answer that was rewritten, as a correction or beside another verdict."""
    verdict = content.get("verdict")
    if verdict is not None and verdict["kind"] == "correction" and verdict["text"] is not None:
        yield shown[0], verdict["text"]
    yield from ((shown[edit["position"]], edit["text"]) for edit in content.get("edits", ()))


def _sign(difference: float) -> Better:
    return "first" if difference > 0 else "second" if difference < 0 else "tie"
