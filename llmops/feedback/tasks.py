"""What passes between the store, the service and the page: one item as a rater may see it, and how things stand.

Nothing here names a model, a source or a kind of assignment: what is not in a task cannot reach a rater.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmops.feedback.campaign import Kind
from llmops.rubric import Rubric

Waiting = Literal["nothing", "taken", "finished", "training", "paused"]
"""Why there is no task: nothing is for this rater (they do not read its languages); all that is left is with others;
everything is rated, or has been by this rater; a qualification comes first; the rater is paused."""


@dataclass(frozen=True, slots=True)
class Task:
    """One assignment as its rater sees it.

    Attributes:
        until: when the lease ends, seconds since 1970.
        prompt: messages with `role` and `content`, all turns.
        responses: texts in the order this rater sees, with the campaign's masks laid over.
        tags: that may be put on it.
        practice: the right answer is told after this one, and it counts for nothing.
        given: the content of this rater's newest rating of it, where they have come back to it, with its `id`.
    """

    assignment: str
    campaign: str
    kind: Kind
    until: float
    rubric: Rubric
    prompt: tuple[Mapping[str, Any], ...]
    responses: tuple[str, ...]
    tags: tuple[str, ...]
    practice: bool
    given: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NoTask:
    """Why there is none; `free_in` seconds the next lease of somebody else ends, where it is `taken`."""

    why: Waiting
    free_in: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a rating.

    Attributes:
        again: it had been stored before, under the same id; nothing was changed.
        surplus: it came after its lease had ended and others had filled the item's overlap: kept, not needed.
        expected: the right verdict, in the rater's own order, of a practice task.
    """

    id: str
    again: bool
    surplus: bool
    expected: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is, and this rater's part.

    Attributes:
        wanted: ratings the campaign needs in all (normal items times overlap).
        done: of those, ratings there are; where known items are mixed in, what the rater's own add is estimated, so
            that it does not say which those were.
        mine: ratings of this rater, skipped ones not counted.
        gold: how many of this rater's gold items agreed at first, and of how many, in full tens; None before the
            first ten, and where the campaign does not show it.
        median_s: this rater's median active time an item; None before the first.
    """

    wanted: int
    done: int
    mine: int
    gold: tuple[int, int] | None
    median_s: float | None
