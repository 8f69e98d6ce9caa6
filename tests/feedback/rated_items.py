"""Items with ratings, as a campaign's readers get them, made in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from llmops.feedback.items import Item, Rated, Rating, Response
from llmops.rubric import Rubric

PAIRWISE = Rubric(name="helpful", version=1, question="Which helps more?", scale={"kind": "pairwise"})
LIKERT = Rubric(
    name="fluent",
    version=1,
    question="How fluent?",
    scale={"kind": "likert", "labels": ["1", "2", "3", "4", "5"]},
)
_NUMBER = count()


def pair(step: int | None) -> dict[str, Any]:
    """A verdict of a pairwise campaign; None is both bad."""
    return {"kind": "pairwise", "step": step, "both_bad": step is None}


def said(verdict: Mapping[str, Any] | None, rater: str = "", **other: Any) -> Rating:
    """A rating as the page sent it, by a rater of its own where none is named."""
    number = next(_NUMBER)
    content: dict[str, Any] = {"verdict": verdict, "skip": None, "flag": None, "edits": []}
    fields: dict[str, Any] = {"kind": "normal", "round": 0, "shown": (0, 1), "surplus": False}
    fields |= {name: value for name, value in other.items() if name in fields}
    content |= {name: value for name, value in other.items() if name in content}
    return Rating(
        id=f"r{number}",
        assignment=f"a{number}",
        item="",
        place=0,
        rater=rater or f"rater{number}",
        at=float(number),
        first_at=float(number),
        rubric="d",
        said="skip" if content["skip"] else "verdict",
        content=content,
        **fields,
    )


def item(*ratings: Rating, answers: Sequence[str] = ("one answer", "another"), **other: Any) -> Rated:
    """An item of its own cluster."""
    number = next(_NUMBER)
    fields: dict[str, Any] = {
        "id": f"i{number}",
        "campaign": "c",
        "place": number,
        "kind": "normal",
        "prompt": ({"role": "user", "content": f"question {number}"},),
        "prompt_digest": f"c{number}",
        "cluster": f"c{number}",
        "source": {"row": f"x:{number}"},
        "probability": 1.0,
        "overlap": 1,
        "priority": 0,
        "language": None,
        "tags": (),
        "expected": None,
        "responses": tuple(Response(text, f"model{place}", {}) for place, text in enumerate(answers)),
    }
    made = Item(**{**fields, **other})
    return Rated(made, tuple(replace(rating, item=made.id, place=made.place) for rating in ratings))
