"""Raters who work without a pause, and how long each of them waits; whoever answers them, a desk or a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from threading import Barrier
from typing import TypeVar

Task = TypeVar("Task")


@dataclass
class Waited:
    """Seconds raters waited, sorted.

    Attributes:
        tasks: for the next task.
        stored: for the word that a rating is stored.
        seconds: that the whole took.
    """

    tasks: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        """Ratings stored in a second."""
        return len(self.stored) / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.per_s:.0f} ratings/s; next item p50 {at(self.tasks, 0.5):.1f}, p95 {at(self.tasks, 0.95):.1f}, "
            f"p99 {at(self.tasks, 0.99):.1f}, worst {at(self.tasks, 1):.1f} ms; acknowledged p50 "
            f"{at(self.stored, 0.5):.1f}, p95 {at(self.stored, 0.95):.1f}, p99 {at(self.stored, 0.99):.1f}, worst "
            f"{at(self.stored, 1):.1f} ms"
        )


def at(times: Sequence[float], share: float) -> float:
    """The time in ms that a share of all stays within."""
    return 1000 * times[min(int(share * len(times)), len(times) - 1)]


def rate(
    raters: Sequence[str],
    *,
    ask: Callable[[str], Task],
    send: Callable[[str, Task], None],
    seconds: float,
    think_s: float = 0.0,
) -> Waited:
    """Let all raters work at once, each in a thread of their own.

    Args:
        ask: the next task of a rater.
        send: sends a rating of it and waits for the word that it is stored.
        think_s: what a rater takes to decide, on average (exponential); 0 is the hard case: nobody rates like that.
    """
    together = Barrier(len(raters) + 1)

    def work(rater: str) -> Waited:
        mine, drawn = Waited(), Random(rater)
        together.wait()
        end = time.perf_counter() + seconds
        if think_s:
            time.sleep(drawn.uniform(0, think_s))
        while (asked := time.perf_counter()) < end:
            task = ask(rater)
            mine.tasks.append(time.perf_counter() - asked)
            if think_s:
                time.sleep(drawn.expovariate(1 / think_s))
            sent = time.perf_counter()
            send(rater, task)
            mine.stored.append(time.perf_counter() - sent)
        return mine

    with ThreadPoolExecutor(len(raters)) as pool:
        working = [pool.submit(work, rater) for rater in raters]
        together.wait()
        started = time.perf_counter()
        done = [one.result() for one in working]
        took = time.perf_counter() - started
    return Waited(
        sorted(seconds for one in done for seconds in one.tasks),
        sorted(seconds for one in done for seconds in one.stored),
        took,
    )
