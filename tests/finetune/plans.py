"""Recipes, shapes and rows for tests of planning."""

from __future__ import annotations

from pathlib import Path

import yaml

from llmops.config import load
from llmops.finetune.known_shapes import find_shape
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.recipe import Recipe
from llmops.finetune.shape import ModelShape

TINY: ModelShape = find_shape("builtin:tiny").shape
LLAMA_8B: ModelShape = find_shape("meta-llama/Llama-3.1-8B").shape


def make_recipe(folder: Path, *overrides: str) -> Recipe:
    """A recipe over one column of prompts and one of answers, with `key=value` changes."""
    path = folder / "recipe.yaml"
    row = {"source": str(folder / "rows.csv"), "prompt": "{a}", "completion": "{b}"}
    path.write_text(yaml.safe_dump({"name": "test", "base": "builtin:tiny", "data": {"train": [row]}}))
    return load(path, Recipe, what="recipe", overrides=overrides)


def rows_of(number: int, length: int) -> LengthProfile:
    """So many rows of one length, half of each trained."""
    return LengthProfile.from_rows([length] * number, [length // 2] * number)
