"""A listener that remembers what long work told it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmops.records import Step


@dataclass
class Heard:
    """`on_step` is called with every update, `on_advance` with the name of every other progress."""

    lines: list[str] = field(default_factory=list)
    advances: list[tuple[str, int, int | None]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    totals: set[int] = field(default_factory=set)
    on_step: Callable[[Step], None] = lambda step: None
    on_advance: Callable[[str], None] = lambda what: None

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, what: str, done: int, total: int | None) -> None:
        self.advances.append((what, done, total))
        self.on_advance(what)

    def step(self, step: Step, total: int) -> None:
        self.steps.append(step)
        self.totals.add(total)
        self.on_step(step)
