"""Rows of preferences and labels, and runs of a few updates on them, beside those of `small_runs.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmops.data.formats import content_digest, with_content
from llmops.finetune.method import Method
from llmops.finetune.recipe import Recipe
from llmops.finetune.tokens import TokenStore
from llmops.records import Row
from tests.finetune.small_runs import Stores, a_recipe

PAIRS = {"source": "pairs.jsonl", "prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}"}
LABELLED = {"source": "labelled.jsonl", "prompt": "{prompt}", "completion": "{completion}", "label": "label"}


def a_preference_recipe(kind: str = "dpo", **changes: Any) -> Recipe:
    """Like `a_recipe`, of a preference method; `method` in `changes` adds to it."""
    method = {"kind": kind, **changes.pop("method", {})}
    rows = LABELLED if kind == "kto" else PAIRS | ({"margin": "margin"} if method.get("margin") else {})
    return a_recipe(data={"train": [rows]}, method=method, **changes)


def some_pairs(count: int, seed: int) -> list[Row]:
    """A chosen answer of vowels against a rejected one of consonants, of very different lengths."""
    draw = np.random.default_rng(seed)

    def word(letters: str, most: int) -> str:
        return "".join(letters[int(place)] for place in draw.integers(0, len(letters), int(draw.integers(1, most))))

    rows = []
    for number in range(count):
        content = {
            "messages": [{"role": "user", "content": word("abcdefgh", 12)}],
            "chosen": word("aeiou", 30),
            "rejected": word("bcdfg", 30),
        }
        rows.append(Row(content_digest(content), "preference", content, "made", number + 1))
    return rows


def with_margins(rows: list[Row], seed: int) -> list[Row]:
    """The pairs, each with a margin of 0 to 1."""
    margins = np.random.default_rng(seed).random(len(rows)).round(3).tolist()
    return [with_content(row, {**row.content, "margin": margin}) for row, margin in zip(rows, margins, strict=True)]


def some_labelled(count: int, seed: int) -> list[Row]:
    """Answers of vowels that are wanted and of consonants that are not."""
    rows = []
    for number, pair in enumerate(some_pairs(count, seed)):
        wanted = number % 3 != 0
        content = {
            "messages": pair.content["messages"],
            "completion": pair.content["chosen" if wanted else "rejected"],
            "label": wanted,
        }
        rows.append(Row(content_digest(content), "labelled", content, "made", number + 1))
    return rows


def encoded_for(rows: list[Row], method: Method, base: Path, path: Path) -> TokenStore:
    from transformers import AutoTokenizer

    from llmops.finetune.tokens import encode

    store, _, _ = encode(rows, AutoTokenizer.from_pretrained(base), max_length=64, path=path, method=method)
    return store


def make_preference_stores(base: Path, folder: Path, kind: str = "dpo") -> Stores:
    """24 rows to train on and 8 to validate on, encoded for a method; pairs have margins."""
    folder.mkdir(parents=True, exist_ok=True)
    method = a_preference_recipe(kind).method
    rows = [
        some_labelled(count, seed) if kind == "kto" else with_margins(some_pairs(count, seed), seed)
        for count, seed in ((24, 1), (8, 2))
    ]
    train = encoded_for(rows[0], method, base, folder / "train.safetensors")
    validation = encoded_for(rows[1], method, base, folder / "validation.safetensors")
    return Stores(folder, train, validation)
