"""How quickly a campaign's ratings come in, and when it will have them all if that goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WINDOW_S = 7 * 86_400.0
"""How far back is looked: a whole week holds nights and week-ends in the share they have."""
_ENOUGH = 20
"""Ratings below which no pace is told."""
_SHORTEST_S = 600.0
"""Seconds of rating below which none is told: the first minutes say little about hours."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of the ratings that count.

    Attributes:
        ratings: that arrived from `since` to `until` (seconds since 1970); the pause after the last is in it.
        left: still to come.
        end: when they are all there at this pace; None where none are left.
    """

    ratings: int
    since: float
    until: float
    left: int
    end: float | None

    @property
    def per_hour(self) -> float:
        return self.ratings / (self.until - self.since) * 3600


def pace_of(arrived: Iterable[float], *, left: int, now: float) -> Pace | None:
    """The pace of the last week, or since the first rating where that is later; None where there is too little to
    tell one: fewer than 20 ratings in that time, or less than ten minutes.

    Args:
        arrived: when each rating that counts came, in any order.
    """
    known = [at for at in arrived if at <= now]
    if not known:
        return None
    first = min(known)
    since = max(first, now - WINDOW_S)
    # The first rating begins the span: it took none of it.
    within = sum(at > since for at in known)
    if within < _ENOUGH or now - since < _SHORTEST_S:
        return None
    end = now + left * (now - since) / within if left > 0 else None
    return Pace(within, since, now, max(left, 0), end)
