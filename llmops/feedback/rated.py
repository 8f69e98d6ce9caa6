"""What was said of one item, as readers of a campaign get it: exports, dashboards, reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that was rated; see `NewResponse`."""

    text: str
    model: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """The newest rating of one assignment.

    Attributes:
        kind: of the assignment: normal, gold, repeat, training.
        round: 0; from 1 on where the rater was asked the same again.
        shown: places of the responses as this rater saw them: position 0 was `shown[0]`.
        content: see `Given.content`; its positions are this rater's.
    """

    id: str
    rater: str
    at: float
    kind: str
    round: int
    shown: tuple[int, ...]
    rubric: str
    content: Mapping[str, Any]
    surplus: bool

    @property
    def verdict(self) -> Mapping[str, Any] | None:
        """What was said, with positions as places of the responses; None where the item was skipped."""
        said = self.content.get("verdict")
        return None if said is None else in_places(said, self.shown)


@dataclass(frozen=True, slots=True)
class RatedItem:
    """An item with all that was said of it, the oldest first."""

    id: str
    place: int
    kind: str
    prompt: tuple[Mapping[str, Any], ...]
    cluster: str
    source: Mapping[str, Any]
    probability: float
    language: str | None
    tags: tuple[str, ...]
    expected: Mapping[str, Any] | None
    responses: tuple[Response, ...]
    said: tuple[Said, ...]


def in_places(verdict: Mapping[str, Any], shown: tuple[int, ...]) -> dict[str, Any]:
    """A verdict whose positions are those one rater saw, as one whose positions are places; its own inverse where two
    answers are shown."""
    match verdict["kind"]:
        case "pairwise":
            step = verdict["step"]
            return {**verdict, "step": step if step is None or shown[0] == 0 else -step}
        case "rating":
            scores = verdict["scores"]
            return {**verdict, "scores": [scores[shown.index(place)] for place in range(len(scores))]}
        case "ranking":
            groups = [sorted(shown[position] for position in group) for group in verdict["groups"]]
            return {**verdict, "groups": groups, "invalid": sorted(shown[one] for one in verdict["invalid"])}
    return dict(verdict)


def as_shown(verdict: Mapping[str, Any], shown: tuple[int, ...]) -> dict[str, Any]:
    """The other way: a verdict in places as a rater with this order would have given it."""
    back = tuple(shown.index(place) for place in range(len(shown)))
    return in_places(verdict, back)
