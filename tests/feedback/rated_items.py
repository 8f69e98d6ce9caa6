"""Items with ratings, as a campaign's readers get them, made in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from llmops.feedback.rated import RatedItem, Response, Said
from llmops.rubric import Rubric

PAIRWISE = Rubric(name="helpful", version=1, question="Which helps more?", scale={"kind": "pairwise"})  # type: ignore[arg-type]
LIKERT = Rubric(
    name="fluent",
    version=1,
    question="How fluent?",
    scale={"kind": "likert", "labels": ["1", "2", "3", "4", "5"]},  # type: ignore[arg-type]
)
_NUMBER = count()


def pair(step: int | None) -> dict[str, Any]:
    """A verdict of a pairwise campaign; None is both bad."""
    return {"kind": "pairwise", "step": step, "both_bad": step is None}


def said(verdict: Mapping[str, Any] | None, rater: str = "", **other: Any) -> Said:
    """A rating as the page sent it, by a rater of its own where none is named."""
    number = next(_NUMBER)
    content: dict[str, Any] = {"verdict": verdict, "skip": None, "flag": None, "edits": []}
    fields: dict[str, Any] = {"kind": "normal", "round": 0, "shown": (0, 1), "surplus": False}
    fields |= {name: value for name, value in other.items() if name in fields}
    content |= {name: value for name, value in other.items() if name in content}
    return Said(f"r{number}", rater or f"rater{number}", float(number), rubric="d", content=content, **fields)


def item(*ratings: Said, answers: Sequence[str] = ("one answer", "another"), **other: Any) -> RatedItem:
    """An item of its own cluster."""
    number = next(_NUMBER)
    fields: dict[str, Any] = {
        "id": f"i{number}",
        "place": number,
        "kind": "normal",
        "prompt": ({"role": "user", "content": f"question {number}"},),
        "cluster": f"c{number}",
        "source": {"row": f"x:{number}"},
        "probability": 1.0,
        "language": None,
        "tags": (),
        "expected": None,
        "responses": tuple(Response(text, f"model{place}", {}) for place, text in enumerate(answers)),
    }
    return RatedItem(**{**fields, **other}, said=tuple(ratings))
