"""Finished requests, and other news, handed to somebody slow, such as a log or a collector, in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Generic, TypeVar

from llmops.serve.waiting import Waiting

EVERY_S = 0.2
AT_ONCE = 500
MOST = 10_000

log = logging.getLogger("llmops.gateway")


Item = TypeVar("Item")


class Following(Generic[Item]):
    """Calls `handle` with what was put in; beyond ten thousand that wait the oldest are lost, and counted."""

    def __init__(self, handle: Callable[[Sequence[Item]], None], *, name: str, most: int = MOST) -> None:
        self._handle = handle
        self._waiting: Waiting[Item] = Waiting(most)
        self._ending = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, name: str, item: Item) -> None:
        """Takes microseconds, whatever `handle` is doing; names are their items' own."""
        self._waiting.put(name, item)

    @property
    def dropped(self) -> int:
        return self._waiting.dropped

    def close(self, *, wait_s: float = 2.0) -> bool:
        """Handle what waits and stop; whether that took no longer than `wait_s`."""
        self._ending.set()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(EVERY_S)
            while some := self._waiting.take(AT_ONCE):
                try:
                    self._handle(some)
                except Exception:
                    log.exception("%s: %s are lost", self._thread.name, len(some))
                self._waiting.done()
