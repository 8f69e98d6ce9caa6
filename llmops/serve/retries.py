"""How many requests may be sent a second time, so that a fault never doubles the load."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 10


class RetryBudget:
    """Retries are at most `share` of the requests of the last `WINDOW_S` seconds, rounded up."""

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()  # [second, requests, retries]
        self._requests = 0
        self._retries = 0

    def request(self, now: float) -> None:
        """A client asks something."""
        self._at(now)[1] += 1
        self._requests += 1

    def retry(self, now: float, share: float) -> bool:
        """One of them may be sent again; then it is counted."""
        at = self._at(now)
        if self._retries >= math.ceil(share * self._requests):
            return False
        at[2] += 1
        self._retries += 1
        return True

    def _at(self, now: float) -> list[int]:
        seconds = self._seconds
        if not seconds or seconds[-1][0] < int(now):
            seconds.append([int(now), 0, 0])
            while seconds[0][0] <= int(now) - WINDOW_S:
                _, requests, retries = seconds.popleft()
                self._requests -= requests
                self._retries -= retries
        return seconds[-1]
