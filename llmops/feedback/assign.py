"""Who rates what next. Pure: sees numbers and small records, and neither database nor clock.

Kinds of tasks: `training` first, where a campaign has it; then `normal` items with `gold` ones (a known answer) and
`repeat` ones (asked again) among them, at places that nobody can foresee.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from llmops.feedback.tasks import NoTask

POLICY = "1"
"""Kept with each assignment; raised with every change of the rules here."""
AT_ONCE = 2
"""Assignments a rater holds at most: the one on the page, and the one fetched ahead."""
REPEAT_GAP = 10
"""Tasks at least between the two times."""
EXTEND_FROM = 2 / 3
"""Share of a lease that may be left when it is extended; before, it is long enough as it is."""

TaskKind = Literal["normal", "gold", "repeat", "training"]


@dataclass(frozen=True, slots=True)
class Shares:
    """What a campaign wants of each rater's tasks: `training` first of all, then these shares of the rest."""

    training: int
    gold: float
    repeat: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks a rater has been given, by kind."""

    normal: int = 0
    gold: int = 0
    repeat: int = 0
    training: int = 0


@dataclass(frozen=True, slots=True)
class Opening:
    """An item of which something is free, for one rater.

    Attributes:
        rank: its priority, negated: lower comes first.
        had: this rater has been given it before.
    """

    item: str
    rank: int
    place: int
    language: str = ""
    had: bool = False

    @property
    def order(self) -> tuple[int, int]:
        return self.rank, self.place


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold item for one rater: how often it was given, and whether they were told its answer in training."""

    item: str
    place: int
    times: int = 0
    told: bool = False


def kinds_due(shares: Shares, counts: Counts, draw: Callable[[str, int], float]) -> tuple[TaskKind, ...]:
    """Kinds the next task may be of, the best first; `normal` is always among them, and last.

    The n-th gold item falls into the n-th stretch of 1/share tasks, at a place drawn for it; repeats likewise. So the
    number given is never further than one from the share, and which task is one cannot be foreseen.

    Args:
        draw: a number in [0, 1) for a kind and its count, the same whenever it is asked for the same.
    """
    if counts.training < shares.training:
        return ("training", "normal")
    task = counts.normal + counts.gold + counts.repeat + 1
    due: list[tuple[float, TaskKind]] = []
    kinds: tuple[tuple[TaskKind, float, int], ...] = (
        ("gold", shares.gold, counts.gold),
        ("repeat", shares.repeat, counts.repeat),
    )
    for kind, share, given in kinds:
        if share and share * task >= given + draw(kind, given):
            due.append((given / share, kind))
    # Of two that are due the one whose stretch began first; the other is next.
    return (*(kind for _, kind in sorted(due)), "normal")


def readable(languages: Iterable[str], read: Collection[str]) -> tuple[str, ...]:
    """Of `languages` those that somebody reads who reads `read`; an item of no language ("") is for all.

    Who reads a language reads it as written anywhere (`de` reads `de-CH`), who reads one country's reads that alone.
    """
    return tuple(one for one in languages if not one or one in read or one.split("-")[0] in read)


def missing(
    languages: Sequence[str], requires: Sequence[str], *, read: Collection[str], qualifications: Collection[str]
) -> NoTask | None:
    """Why a rater gets nothing of a campaign at all; None where nothing stands against it."""
    if len(readable(languages, read)) < len(languages):
        return NoTask("nothing")
    if not set(requires) <= set(qualifications):
        return NoTask("training")
    return None


def first(openings: Iterable[Opening], languages: Collection[str]) -> Opening | None:
    """The one of highest priority that the rater reads and has not had; among equals the one that came in first."""
    fitting = (one for one in openings if not one.had and one.language in languages)
    return min(fitting, key=lambda one: one.order, default=None)


def gold_for(golds: Iterable[Gold], *, training: bool, rng: Random) -> Gold | None:
    """Which gold item a rater is given: any of those seen least, so that none comes again before all were seen.

    Whose answer was told in training proves nothing any more; where nothing else is left, there is none.
    """
    fitting = [one for one in golds if training or not one.told]
    if not fitting:
        return None
    if training:  # in their order: an owner may begin with what is easy
        return min(fitting, key=lambda one: (one.times, one.place))
    least = min(one.times for one in fitting)
    return rng.choice([one for one in fitting if one.times == least])


def sides(responses: int, rng: Random) -> tuple[int, ...]:
    """The places of the responses in the order they will be shown, all orders being as likely."""
    order = list(range(responses))
    rng.shuffle(order)
    return tuple(order)


def claim(*, held: bool, wanted: bool) -> Literal["keep", "take", "give back"]:
    """What a rating does to its item's overlap. Where a place is to be taken and none is free, it is surplus.

    Args:
        held: its assignment holds a place, by its lease or by the rating that this one replaces. A lease that ended
            holds it until it is handed on.
        wanted: it is to fill a place: it is a verdict, and no skip.
    """
    if held == wanted:
        return "keep"
    return "take" if wanted else "give back"


def why_none(*, open_or_out: bool, had_any: bool, taken_until: float | None, now: float) -> NoTask:
    """Why a rater gets nothing.

    Args:
        open_or_out: the campaign has items that are not finished.
        had_any: the rater has been given anything of it.
        taken_until: when the first lease of somebody else ends on an item this rater could have; None without one.
    """
    if taken_until is not None:
        return NoTask("taken", max(0.0, taken_until - now))
    return NoTask("nothing" if open_or_out and not had_any else "finished")


def extended(until: float, now: float, lease_s: float) -> float:
    """When a lease ends that is extended now; the old end where most of it is left."""
    return until if until - now > EXTEND_FROM * lease_s else now + lease_s


def to_pause(right: int, of: int, *, below: float, after: int) -> bool:
    """Whether a rater is asked to stop: after `after` gold items their interval (Wilson, 95 %) lies wholly below."""
    from llmops.stats import wilson

    return of >= max(after, 1) and wilson(right, of, 0.95)[1] < below
