"""A place in which whole runs are made, and a listener that remembers what they said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.finetune.recipe import Recipe
from llmops.lifecycle.loop import Result, finetune
from llmops.records import Step
from llmops.workspace import Workspace
from tests.lifecycle.small_recipes import a_small_recipe


@dataclass
class Heard:
    """A listener that remembers; `on_step` is called with every update, `on_advance` with every other progress."""

    lines: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    totals: set[int] = field(default_factory=set)
    on_step: Callable[[Step], None] = lambda step: None
    on_advance: Callable[[str], None] = lambda what: None

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, what: str, done: int, total: int | None) -> None:
        self.on_advance(what)

    def step(self, step: Step, total: int) -> None:
        self.steps.append(step)
        self.totals.add(total)
        self.on_step(step)


@dataclass(frozen=True)
class Site:
    """A folder with rows, a suite, a base and a workspace."""

    folder: Path
    base: Path
    workspace: Workspace

    def recipe(self, **changes: Any) -> Recipe:
        """The small recipe, sections laid over it."""
        return Recipe.model_validate(a_small_recipe(self.folder, self.base) | changes)

    def run(
        self, recipe: Recipe, *, out: Path | None = None, resume: bool = False, heard: Heard | None = None
    ) -> Result:
        return finetune(recipe, workspace=self.workspace, out=out, gpus=1, resume=resume, listener=heard or Heard())
