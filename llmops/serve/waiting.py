"""What waits to be written: put in by the one who serves, taken out by the one who writes, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Waiting(Generic[Item]):
    """A queue between two threads. What was taken is still in it until the taker says that it is done."""

    def __init__(self, most: int, *, size: Callable[[Item], int] = lambda _: 1) -> None:
        """Hold items whose sizes add up to `most`; beyond that the oldest go, and are counted in `dropped`."""
        self._most = most
        self._size = size
        self._lock = Lock()
        self._in: OrderedDict[str, Item] = OrderedDict()
        self._out: dict[str, Item] = {}
        self._held = 0
        self.dropped = 0

    def put(self, name: str, item: Item) -> int:
        """Add one, never waiting for more than a few instructions; returns how many wait to be taken."""
        with self._lock:
            if (before := self._in.pop(name, None)) is not None:
                self._held -= self._size(before)
            self._in[name] = item
            self._held += self._size(item)
            while self._held > self._most and self._in:
                _, oldest = self._in.popitem(last=False)
                self._held -= self._size(oldest)
                self.dropped += 1
            return len(self._in)

    def take(self, count: int) -> list[Item]:
        """The `count` that wait longest, or fewer; the same ones again until `done`."""
        if not self._out:
            with self._lock:
                for _ in range(min(count, len(self._in))):
                    name, item = self._in.popitem(last=False)
                    self._out[name] = item
        return list(self._out.values())

    def done(self) -> None:
        """What was taken is written."""
        with self._lock:
            self._held -= sum(map(self._size, self._out.values()))
            self._out = {}

    def find(self, name: str) -> Item | None:
        """The item of this name, waiting or taken."""
        with self._lock:
            found = self._in.get(name)
            return found if found is not None else self._out.get(name)

    def __len__(self) -> int:
        return len(self._in) + len(self._out)
