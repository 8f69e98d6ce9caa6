"""Keeps requests from a replica that fails, and lets one at a time find out whether it has recovered."""

from __future__ import annotations

from typing import Literal

FAILURES = 5
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0


class Breaker:
    """Closed, until `FAILURES` requests in a row have failed; then open for a while that doubles each time, up to
    `LONGEST_WAIT_S`; then half-open: one request goes through, and what becomes of it decides.

    Times are those of a monotonic clock, in seconds.
    """

    __slots__ = ("_failures", "_probing", "_until", "_wait_s")

    def __init__(self) -> None:
        self._failures = 0
        self._wait_s = FIRST_WAIT_S
        self._until: float | None = None
        self._probing = False

    def state(self, now: float) -> Literal["closed", "open", "half-open"]:
        if self._until is None:
            return "closed"
        return "open" if now < self._until else "half-open"

    def may(self, now: float) -> bool:
        """A request may go there."""
        return self._until is None or (now >= self._until and not self._probing)

    def opens_in(self, now: float) -> float:
        """Seconds until the next request may go there, if the one that tries it succeeds."""
        return 0.0 if self._until is None else max(self._until - now, 0.1)

    def begin(self) -> None:
        """A request goes there, which `may` allowed."""
        if self._until is not None:
            self._probing = True

    def succeeded(self) -> None:
        self._failures = 0
        self._wait_s = FIRST_WAIT_S
        self._until = None
        self._probing = False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._until is not None and self._probing:
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        elif self._until is not None or self._failures < FAILURES:
            # One that had begun before it opened says nothing new.
            return
        self._probing = False
        self._until = now + self._wait_s

    def undecided(self) -> None:
        """The request ended without telling anything of the replica: its client left."""
        self._probing = False
