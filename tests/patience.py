"""Waiting, and measuring seconds, on a machine that has more to do than these tests."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

HANG_S = 60.0
"""After so long something hangs; that it comes late says nothing but that the machine is busy."""

P = ParamSpec("P")
Value = TypeVar("Value")


def wait_until(true: Callable[[], object], what: str = "it did not come to be") -> None:
    """Returns once it is `true`; after a minute the test fails and says `what`."""
    end, pause = time.monotonic() + HANG_S, 0.002
    while not true():
        assert time.monotonic() < end, what
        time.sleep(pause)
        pause = min(0.05, 1.2 * pause)  # to look may cost something, too


def once_in_three(measured: Callable[P, Value]) -> Callable[P, Value]:
    """For a promise in seconds: `measured`, which asserts it, may fail twice.

    A busy machine makes anything late, once; what is late three times in a row is slow. It is called anew each time
    and must leave nothing to stumble over.
    """

    @functools.wraps(measured)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Value:
        for _ in range(2):
            try:
                return measured(*args, **kwargs)
            except AssertionError:
                time.sleep(0.5)
        return measured(*args, **kwargs)

    return tried
