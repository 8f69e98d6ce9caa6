"""Finished requests handed to somebody slow, such as a log or a collector, in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread

from llmops.serve.entry import Entry
from llmops.serve.waiting import Waiting

EVERY_S = 0.2
AT_ONCE = 500
MOST = 10_000

log = logging.getLogger("llmops.gateway")


class Following:
    """Calls `handle` with what was put in; beyond ten thousand that wait the oldest are lost, and counted."""

    def __init__(self, handle: Callable[[Sequence[Entry]], None], *, name: str, most: int = MOST) -> None:
        self._handle = handle
        self._waiting: Waiting[Entry] = Waiting(most)
        self._ending = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Takes microseconds, whatever `handle` is doing."""
        self._waiting.put(entry.id, entry)

    @property
    def dropped(self) -> int:
        return self._waiting.dropped

    def close(self, *, wait_s: float = 2.0) -> None:
        """Handle what waits and stop; at most `wait_s` are waited for it."""
        self._ending.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(EVERY_S)
            while some := self._waiting.take(AT_ONCE):
                try:
                    self._handle(some)
                except Exception:
                    log.exception("%s: %s requests are lost", self._thread.name, len(some))
                self._waiting.done()
