"""When a server that ended is started again, and when it is given up; knows numbers, no processes."""

from __future__ import annotations

from collections import deque

from llmops.serve.settings import Restart


class Restarts:
    """The ends of one server so far. Times are in seconds on a clock that never goes back."""

    def __init__(self, settings: Restart) -> None:
        self.settings = settings
        self._ends: deque[float] = deque()
        self._in_a_row = 0

    def after_end(self, now: float, *, ran_s: float = 0.0) -> float | None:
        """Seconds until the next start; None where it ended too often.

        Args:
            ran_s: how long it had been serving. As long as `window_s` counts as recovered: waits begin anew.
        """
        settings = self.settings
        if ran_s >= settings.window_s:
            self._in_a_row = 0
        self._ends.append(now)
        while self._ends and self._ends[0] <= now - settings.window_s:
            self._ends.popleft()
        if len(self._ends) >= settings.attempts:
            return None
        # The exponent is bounded: 2.0 ** 1100 is no number any more.
        wait = min(settings.longest_wait_s, settings.first_wait_s * 2.0 ** min(self._in_a_row, 60))
        self._in_a_row += 1
        return wait

    @property
    def ends(self) -> int:
        """Within `window_s` before the last one, that one included."""
        return len(self._ends)
