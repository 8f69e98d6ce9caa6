"""How often something was tried of late: counts in memory, bounded, for limits on signing in."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from threading import Lock

KEYS = 20_000


class Attempts:
    """Tries by key in a sliding window.

    Those who fill it do not push out what is counted: once all keys are taken by counts of the window, every further
    key shares one count.
    """

    def __init__(
        self, most: int, seconds: float, *, keys: int = KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._keys = keys
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._times)

    def wait(self, key: str) -> float | None:
        """Count one try; or the seconds until the next may be made, and none is counted."""
        now = self._clock()
        with self._lock:
            times = self._of(key, now)
            while times and times[0] <= now - self._seconds:
                times.popleft()
            if len(times) >= self._most:
                return times[0] + self._seconds - now
            times.append(now)
            return None

    def forgive(self, key: str) -> None:
        """Take the last try back: it was right."""
        with self._lock:
            times = self._times.get(key or "-", self._times.get(""))
            if times:
                times.pop()

    def _of(self, key: str, now: float) -> deque[float]:
        key = key or "-"
        while self._times:  # the oldest first: those whose window is over go
            oldest, times = next(iter(self._times.items()))
            if times and times[-1] > now - self._seconds:
                break
            del self._times[oldest]
        if key not in self._times and len(self._times) >= self._keys:
            key = ""
        times = self._times.setdefault(key, deque(maxlen=self._most))
        self._times.move_to_end(key)
        return times


def network_of(address: str) -> str:
    """What one household has: an IPv4 address, or the /64 of an IPv6 one; anything else as it is."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((int(known) >> 64 << 64, 64)))
    return str(known)
