"""How much one key may ask: requests and tokens a minute, US dollars a month. Arithmetic on a clock that is passed in.

A rate of N a minute promises that no 60 seconds hold more than N, wherever they begin. (GCRA and a counter per minute
let through up to 2 N.) Amounts are added up in slots of a quarter of a second, so that memory does not grow with N;
an amount counts until its whole slot is 60 s old.

Not for several threads: the event loop is the only one that asks.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from math import floor

WINDOW_S = 60.0
SLOT_S = 0.25


class Rate:
    """At most `most` in any 60 seconds."""

    __slots__ = ("_held", "_now", "_slots", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._slots: deque[list[int]] = deque()  # [number of the slot, amount], rising numbers
        self._held = 0
        self._now = float("-inf")

    def wait(self, amount: int, now: float) -> float | None:
        """Seconds until `amount` fits, if nothing else comes: 0.0 where it fits now, None where it never will.

        Args:
            now: seconds on a clock that never goes back; earlier than before counts as before.
        """
        if amount > self.most:
            return None
        now = self._at(now)
        free = self.most - self._held
        if amount <= free:
            return 0.0
        slots = iter(self._slots)
        while amount > free:  # it fits at the latest when nothing is left
            slot, held = next(slots)
            free += held
        return max((slot + 1) * SLOT_S + WINDOW_S - now, 0.0)

    def take(self, amount: int, now: float) -> int:
        """Count `amount` whether it fits or not; the slot it was counted in, for `give_back`."""
        slot = floor(self._at(now) / SLOT_S)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0])
        self._slots[-1][1] += amount
        self._held += amount
        return slot

    def give_back(self, amount: int, slot: int, now: float) -> None:
        """Of what was taken in `slot`, `amount` was not used after all; nothing where that is a minute ago."""
        self._at(now)
        for one in reversed(self._slots):
            if one[0] == slot:
                one[1] -= amount
                self._held -= amount
                return

    def held(self, now: float) -> int:
        """What counts at `now`."""
        self._at(now)
        return self._held

    def _at(self, now: float) -> float:
        self._now = now = max(now, self._now)
        # A slot counts while some of it is within the last 60 s.
        while self._slots and (self._slots[0][0] + 1) * SLOT_S + WINDOW_S <= now:
            self._held -= self._slots.popleft()[1]
        return now


class Allowance:
    """What one key may take, and what it took."""

    __slots__ = ("requests", "tokens")

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        """Requests and tokens a minute; None does not count."""
        self.requests = None if rpm is None else Rate(rpm)
        self.tokens = None if tpm is None else Rate(tpm)

    def follow(self, rpm: int | None, tpm: int | None) -> None:
        """From now on these limits; what was taken stays taken, so that a change lets nobody begin anew."""
        self.requests = _changed(self.requests, rpm)
        self.tokens = _changed(self.tokens, tpm)

    def reserve(self, tokens: int, now: float) -> int:
        """Count a request that will take about `tokens`; returns the slot for `settle`."""
        slot = 0
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            slot = self.tokens.take(tokens, now)
        return slot

    def settle(self, reserved: int, used: int, slot: int, now: float) -> None:
        """It took `used` tokens: what was reserved beyond is given back where it was taken, what is missing is taken
        now."""
        if self.tokens is None:
            return
        if used > reserved:
            self.tokens.take(used - reserved, now)
        else:
            self.tokens.give_back(reserved - used, slot, now)


def _changed(rate: Rate | None, most: int | None) -> Rate | None:
    if most is None:
        return None
    if rate is None:
        return Rate(most)
    rate.most = most
    return rate


class Spending:
    """US dollars by key in calendar months (UTC): what the ledger knew at the start, and what was added since."""

    def __init__(self) -> None:
        self._before: tuple[tuple[int, int], dict[str, float]] = ((0, 0), {})
        self._since: dict[tuple[int, int], dict[str, float]] = {}

    def begin(self, at: float, before: dict[str, float]) -> None:
        """The ledger's sums for the month of `at`, without what this process adds; from any thread."""
        self._before = (month(at), before)

    def add(self, key: str, usd: float, at: float) -> None:
        """A request that came at the Unix time `at` cost so much."""
        months = self._since
        spent = months.setdefault(month(at), {})
        spent[key] = spent.get(key, 0.0) + usd
        if len(months) > 3:  # a clock that jumped there and back finds its month again; older ones are over
            del months[min(months)]

    def of(self, key: str, at: float) -> float:
        """US dollars of a key in the month of `at`."""
        now = month(at)
        then, before = self._before
        return self._since.get(now, {}).get(key, 0.0) + (before.get(key, 0.0) if then == now else 0.0)


def month(at: float) -> tuple[int, int]:
    """Year and month, in UTC, of a Unix time."""
    day = datetime.fromtimestamp(at, UTC)
    return day.year, day.month
