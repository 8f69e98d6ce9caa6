"""What a request costs: the price of its replica for the time it took, shared among the requests under way.

With n(t) requests under way at a replica of price p, one that is under way from a to b costs

    p · ∫ₐᵇ dt / n(t)

so that the costs of all requests add up to the price of the time in which the replica was busy. What it costs while
it waits for requests belongs to none of them.
"""

from __future__ import annotations

HOUR_S = 3600.0


class Meter:
    """Counts one replica's shared time: S(t) = ∫ dt / n(t), from which every request's share is a difference."""

    __slots__ = ("_last", "_shared_s", "under_way")

    def __init__(self) -> None:
        self._shared_s = 0.0
        self._last = float("-inf")
        self.under_way = 0

    def begin(self, now: float) -> float:
        """A request is sent to the replica; what it returns is to be given to `end`.

        Args:
            now: seconds on a clock that never goes back; earlier than before counts as before.
        """
        self._to(now)
        self.under_way += 1
        return self._shared_s

    def end(self, begun: float, now: float) -> float:
        """The request is over; its share of the replica's time, in seconds."""
        self._to(now)
        self.under_way -= 1
        return self._shared_s - begun

    def _to(self, now: float) -> None:
        if now > self._last:
            if self.under_way:
                self._shared_s += (now - self._last) / self.under_way
            self._last = now


def usd(shared_s: float, usd_per_hour: float | None) -> float | None:
    """US dollars for a share of a replica's time; None where its price is not known."""
    return None if usd_per_hour is None else shared_s * usd_per_hour / HOUR_S
