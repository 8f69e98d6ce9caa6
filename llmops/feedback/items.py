"""What is rated and what was said of it, as importers hand it in and as exports and dashboards read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

ItemKind = Literal["normal", "gold"]


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Attributes:
        model: who gave it, such as `models:/name/3`; None where nobody knows. No rater sees it.
        detail: decoding, digest of the template, finish reason, tokens, route, side: whatever is known.
    """

    text: str
    model: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewItem:
    """One item as an importer hands it in.

    Attributes:
        prompt: messages with `role` and `content`.
        prompt_digest: of the prompt alone.
        cluster: digest that near-duplicate prompts share.
        source: where it comes from: request, or report and item, or file and line; and the policy that drew it.
        probability: with which it was drawn.
        overlap: ratings it needs; None takes the campaign's. Gold items need none.
        priority: higher first.
        expected: the right verdict of a gold item, over the responses' places.
    """

    prompt: Sequence[Mapping[str, Any]]
    responses: Sequence[Response]
    prompt_digest: str
    cluster: str
    source: Mapping[str, Any]
    probability: float = 1.0
    kind: ItemKind = "normal"
    overlap: int | None = None
    priority: int = 0
    language: str | None = None
    tags: Sequence[str] = ()
    expected: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One item as it is stored; `place` counts from 0 in the order of coming in."""

    id: str
    campaign: str
    place: int
    kind: ItemKind
    prompt: tuple[Mapping[str, Any], ...]
    prompt_digest: str
    cluster: str
    source: Mapping[str, Any]
    probability: float
    overlap: int
    priority: int
    language: str | None
    tags: tuple[str, ...]
    expected: Mapping[str, Any] | None
    responses: tuple[Response, ...]


@dataclass(frozen=True, slots=True)
class Rating:
    """What one rater said of one item: the newest of what they said on one assignment.

    Attributes:
        round: 0; from 1 on where the rater was asked the same again.
        kind: of the assignment: normal, gold, repeat, training.
        shown: places of the responses in the order the rater saw them.
        said: `verdict` or `skip`.
        content: `Given.content()`; positions in it are the rater's. `llmops.feedback.sides.by_place` turns verdicts.
        surplus: came after its lease, when others had filled the overlap.
        first_at: when the first rating of the assignment arrived; `at` is when this one did.
    """

    id: str
    assignment: str
    item: str
    place: int
    rater: str
    at: float
    first_at: float
    rubric: str
    said: Literal["verdict", "skip"]
    content: Mapping[str, Any]
    kind: str
    round: int
    shown: tuple[int, ...]
    surplus: bool


@dataclass(frozen=True, slots=True)
class Rated:
    """An item with all that stands of what was said of it."""

    item: Item
    ratings: tuple[Rating, ...]


@dataclass(frozen=True, slots=True)
class Rater:
    """A rater as assignments see them: a pseudonym, what they read and what they may."""

    id: str
    languages: tuple[str, ...]
    qualifications: tuple[str, ...]
    consent: str


@dataclass(frozen=True, slots=True)
class RaterState:
    """One rater's part in one campaign.

    Attributes:
        rated: assignments whose newest rating is a verdict; `counted` of them fill an overlap.
        gold: how many gold items agreed, and of how many.
    """

    rater: str
    normal: int
    gold_tasks: int
    repeat: int
    training: int
    rated: int
    counted: int
    gold: tuple[int, int]
    paused: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a campaign, an item, an assignment or a rater."""

    id: str
    campaign: str | None
    at: float
    kind: str
    subject: str
    actor: str
    detail: Mapping[str, Any]
