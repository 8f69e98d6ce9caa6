"""Runs of a few updates on the random base, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmops.finetune.model import Placement
from llmops.finetune.parallel import Processes
from llmops.finetune.recipe import Recipe
from llmops.finetune.teacher import TeacherModel, load_teacher
from llmops.finetune.tokens import TokenStore
from llmops.finetune.train import Trained, Trainer
from llmops.records import ModelSource, Row, Step

ALONE = Processes(0, 1, torch.device("cpu"))
PAD = 2


def a_recipe(**changes: Any) -> Recipe:
    """A recipe of ten updates over two epochs; `changes` replace keys, section by section."""
    settings: dict[str, Any] = {
        "name": "small",
        "base": "random-base",
        "data": {"train": [{"source": "rows.jsonl", "text": "text"}], "validation": 0.2},
        "batch": {"sequences": 8, "per_device": 8, "max_length": 64},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"epochs": 2},
        "checkpoints": {"every": 3},
        "precision": "fp32",
        "seed": 5,
    }
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = {**settings[key], **value} if both and "steps" not in value else value
    return Recipe.model_validate(settings)


def some_rows(count: int, seed: int, *, longest: int = 40) -> list[Row]:
    """Conversations of letters with answers of very different lengths, so that passes hold ragged masks."""
    draw = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return "".join(chr(97 + int(letter)) for letter in draw.integers(0, 26, int(draw.integers(least, most))))

    rows = []
    for number in range(count):
        messages = [
            {"role": "user", "content": words(1, 12)},
            {"role": "assistant", "content": words(1, longest)},
        ]
        rows.append(Row(f"{seed}-{number}", "messages", {"messages": messages}, "made", number + 1))
    return rows


@dataclass(frozen=True)
class Stores:
    folder: Path
    train: TokenStore
    validation: TokenStore


def encoded(rows: Iterable[Row], base: Path, path: Path) -> TokenStore:
    from transformers import AutoTokenizer

    from llmops.finetune.tokens import encode

    store, _, _ = encode(rows, AutoTokenizer.from_pretrained(base), max_length=64, path=path)
    return store


def make_stores(base: Path, folder: Path) -> Stores:
    """40 rows to train on and 10 to validate on, encoded with the base's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    train = encoded(some_rows(40, 1), base, folder / "train.safetensors")
    validation = encoded(some_rows(10, 2), base, folder / "validation.safetensors")
    return Stores(folder, train, validation)


def as_source(base: Path) -> ModelSource:
    return ModelSource(str(base), base, None, "0" * 64)


@dataclass(frozen=True)
class Done:
    steps: list[Step]
    weights: dict[str, Tensor]
    trained: Trained


def run_here(
    recipe: Recipe,
    base: Path,
    stores: Stores,
    checkpoints: Path,
    *,
    validate: bool = True,
    attention: str = "sdpa",
    references: Path | None = None,
    teacher: Path | None = None,
    stop: Callable[[], int] = lambda: 0,
) -> Done:
    """Train in this process; answers every update and the final trained weights.

    Args:
        references: where a reference's log-probabilities are kept; None is a place of this run's own.
        teacher: folder of the model whose distributions are learned.
    """
    steps: list[Step] = []
    placement = Placement(ALONE.device, attention, liger=False)
    trained = Trainer(
        recipe,
        base=base,
        train=stores.train,
        validation=stores.validation if validate else None,
        checkpoints=checkpoints,
        placement=placement,
        processes=ALONE,
        pad_id=PAD,
        references=references or checkpoints / "reference",
        teacher=partial(load_teacher, TeacherModel(as_source(teacher), None), recipe, placement) if teacher else None,
        stop=stop,
        on_step=steps.append,
    ).run()
    weights = {name: one.detach().clone() for name, one in trained.model.named_parameters() if one.requires_grad}
    return Done(steps, weights, trained)


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def stop_after(updates: int, signal: int = 15) -> Callable[[], int]:
    """Asks to stop once so many updates were made."""
    asked: Iterator[int] = iter([0] * (updates - 1) + [signal] * 10_000)
    return lambda: next(asked)
