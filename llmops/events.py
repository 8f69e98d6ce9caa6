"""What long work tells whoever watches; the work itself knows no terminal and no log."""

from __future__ import annotations

from typing import Protocol

from llmops.records import Step


class Listener(Protocol):
    """One who watches a long piece of work."""

    def say(self, line: str) -> None:
        """A finished fact, or a value the program chose with its reason."""

    def advance(self, what: str, done: int, total: int | None) -> None:
        """`what` is `done` of `total` (None: not known how many); the last call has done equal to total."""

    def step(self, step: Step, total: int) -> None:
        """One optimizer update of `total`."""


class Silent:
    """Hears nothing."""

    def say(self, line: str) -> None:
        pass

    def advance(self, what: str, done: int, total: int | None) -> None:
        pass

    def step(self, step: Step, total: int) -> None:
        pass
