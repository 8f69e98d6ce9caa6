"""A place in which whole runs are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.finetune.recipe import Recipe
from llmops.lifecycle.loop import Result, finetune
from llmops.workspace import Workspace
from tests.lifecycle.small_recipes import a_small_recipe
from tests.listener import Heard


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
