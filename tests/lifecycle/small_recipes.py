"""Recipes, rows and suites of a few lines, for runs of the whole command on the random base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS = [{"question": f"what is {number}?", "answer": f"it is {number * 7 % 13}"} for number in range(44)]


def write_rows(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_suite(folder: Path, *, name: str = "small") -> Path:
    """Four of the rows as items, answered in at most four tokens."""
    path = folder / "suite.yaml"
    path.write_text(
        f"name: {name}\n"
        f"items: {{source: {folder}/rows.jsonl, prompt: '{{question}}', references: '{{answer}}', limit: 4}}\n"
        "generation: {max_tokens: 4}\n"
        "scorers: [{bleu: {}}, {exact_match: {}}]\n"
    )
    return path


def a_small_recipe(folder: Path, base: Path) -> dict[str, Any]:
    """Five updates of the random base on the rows of `folder`, then its suite."""
    return {
        "name": "small",
        "base": str(base),
        "data": {
            "train": [
                {
                    "source": f"{folder}/rows.jsonl",
                    "prompt": "{question}",
                    "completion": "{answer}",
                    "licence": "CC0-1.0",
                }
            ],
            "validation": 0.2,
        },
        "batch": {"sequences": 8, "per_device": 8, "max_length": 64},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"epochs": 1},
        "checkpoints": {"every": 2},
        "precision": "fp32",
        "seed": 5,
        "evaluate": {"suites": [f"{folder}/suite.yaml"]},
    }
