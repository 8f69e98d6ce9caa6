"""Long work on a terminal: one live view; elsewhere: plain lines, a few a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from llmops.events import Listener
from llmops.records import Step

_PLAIN_EVERY_S = 10.0
_SMOOTHING = 0.9


class _Rate:
    """Loss and speed as a reader wants them: smoothed, so that a single step does not jump."""

    def __init__(self) -> None:
        self.tokens_per_s = 0.0

    def after(self, step: Step) -> float:
        now = step.tokens / step.seconds if step.seconds else 0.0
        self.tokens_per_s = _SMOOTHING * self.tokens_per_s + (1 - _SMOOTHING) * now if self.tokens_per_s else now
        return self.tokens_per_s


def describe(step: Step, total: int, tokens_per_s: float) -> str:
    """One update in one line."""
    parts = [
        f"update {step.index}/{total}",
        f"epoch {step.epoch:.2f}",
        f"loss {step.loss:.4f}",
        f"grad {step.grad_norm:.2f}",
        f"{tokens_per_s:,.0f} tokens/s",
        f"{step.peak_bytes / 2**30:.2f} GiB",
    ]
    parts += [measures(step.measures)] if step.measures else []
    if step.validation_loss is not None:
        parts.append(f"validation {step.validation_loss:.4f}")
        parts += [f"({measures(step.validation_measures)})"] if step.validation_measures else []
    return "  ".join(parts)


def measures(named: Mapping[str, float]) -> str:
    """What a method tells beside its loss: `accuracy 0.812, margin 0.304`."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in named.items())


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 05 s` or `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class _Pace:
    """How fast a phase goes, from the first that was heard of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[str, int, float] = ("", 0, 0.0)

    def after(self, what: str, done: int) -> float:
        """Per second; 0 while it is not known."""
        now = self._clock()
        phase, first, since = self._first
        if phase != what or done < first:
            self._first = (what, done, now)
            return 0.0
        return (done - first) / (now - since) if now > since else 0.0


class _Plain:
    """Lines for logs and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._rate = _Rate()
        self._clock = clock
        self._pace = _Pace(clock)
        self._spoken = 0.0
        self._seconds: list[float] = []

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def advance(self, what: str, done: int, total: int | None) -> None:
        pace = self._pace.after(what, done)
        finished = total is not None and done >= total
        if finished or self._due():
            line = f"{what}: {done:,}" + (f" of {total:,}" if total is not None else "")
            if total is not None and not finished and pace:
                line += f"  {pace:,.1f}/s  {duration((total - done) / pace)} left"
            self.say(line)

    def step(self, step: Step, total: int) -> None:
        speed = self._rate.after(step)
        self._seconds = [*self._seconds[-19:], step.seconds]
        last = step.index == total
        if last or step.index == 1 or step.validation_loss is not None or self._due():
            left = (total - step.index) * sum(self._seconds) / len(self._seconds)
            self.say(describe(step, total, speed) + ("" if last else f"  {duration(left)} left"))

    def _due(self) -> bool:
        now = self._clock()
        if now - self._spoken < _PLAIN_EVERY_S:
            return False
        self._spoken = now
        return True


class _Live:
    """A bar for the phase at work, the training one with loss, speed, memory and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = _Rate()
        self._pace = _Pace()
        self._shown: tuple[str, TaskID] | None = None
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, emoji=False)

    def advance(self, what: str, done: int, total: int | None) -> None:
        pace = self._pace.after(what, done)
        self._show(what, done, total, f"{pace:,.1f}/s" if pace else "")
        if total is not None and done >= total:
            self._over()

    def step(self, step: Step, total: int) -> None:
        note = f"loss {step.loss:.3f}  {self._rate.after(step):,.0f} tokens/s  {step.peak_bytes / 2**30:.1f} GiB"
        self._show("training", step.index, total, note)
        if step.validation_loss is not None or step.index == total:
            self.say(describe(step, total, self._rate.tokens_per_s))
        if step.index == total:
            self._over()

    def _show(self, what: str, done: int, total: int | None, note: str) -> None:
        if self._shown is None or self._shown[0] != what:
            # One phase follows another: one whose total nobody knew, or that was cut short, ends here.
            self._over()
            self._shown = what, self.bars.add_task(what, total=total, note=note)
        self.bars.update(self._shown[1], completed=done, total=total, note=note)

    def _over(self) -> None:
        if self._shown is not None:
            self.bars.remove_task(self._shown[1])
            self._shown = None


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Listener]:
    """A listener that shows long work on standard error, so that standard output stays the result's."""
    console = Console(file=sys.stderr, quiet=quiet)
    if not console.is_terminal or quiet:
        yield _Plain(console)
        return
    live = _Live(console)
    with live.bars:
        yield live
