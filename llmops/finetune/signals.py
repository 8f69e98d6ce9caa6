"""SIGTERM and SIGINT ask a run to save and stop; a second one, or silence, ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_PATIENCE_S = 20.0
"""A process stuck waiting for one that died cannot save; it ends after so many seconds."""


@contextlib.contextmanager
def asked_to_stop(*, end_when_stuck: bool = False) -> Iterator[Callable[[], int]]:
    """Yields a function that answers the signal received, or 0.

    Args:
        end_when_stuck: end the process if it has not left this context some time after the
            signal. Only for processes that wait for others: one alone always comes back.
    """
    received = 0
    left = threading.Event()

    def note(number: int, _: FrameType | None) -> None:
        nonlocal received
        if received:
            os._exit(128 + number)
        received = number

    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone; elsewhere the caller stops us.
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    old_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False) if end_when_stuck else -1

    def watch() -> None:
        # The byte arrives even while the main thread is inside a collective operation.
        number = os.read(reading, 1)
        if number and not left.wait(_PATIENCE_S):
            os._exit(128 + number[0])

    watcher = threading.Thread(target=watch, daemon=True, name="signals") if end_when_stuck else None
    if watcher is not None:
        watcher.start()
    try:
        yield lambda: received
    finally:
        left.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        if end_when_stuck:
            signal.set_wakeup_fd(old_wakeup)
        os.close(writing)
        if watcher is not None:
            watcher.join()
        os.close(reading)
