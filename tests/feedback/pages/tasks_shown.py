"""Tasks of each kind, small enough to be read at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops.feedback.campaign import Kind
from llmops.feedback.tasks import Task
from llmops.rubric import Rubric, load_rubric

RUBRICS = Path(__file__).parents[3] / "feedback" / "rubrics"
HELPFUL = load_rubric(RUBRICS / "helpfulness.yaml")
FLUENT = load_rubric(RUBRICS / "fluency.yaml")
CHECKED = Rubric.model_validate(
    {
        "name": "checked",
        "version": 2,
        "question": "Is it right?",
        "instructions": "Look it up.",
        "scale": {
            "kind": "attributes",
            "attributes": {"true": {"question": "Is it true?"}, "rude": {"question": "Is it rude?", "good": "no"}},
        },
    }
)
ANSWERS = ("The pub is cheap.", "The pub is dear.", "A pub.", "No pub.")


def task(kind: Kind, number: int = 0, **changes: Any) -> Task:
    """Task `number`, whose prompt says which it is."""
    answers = {"pairwise": 2, "rating": 2, "ranking": 4, "thumbs": 1, "correction": 1}[kind]
    values: dict[str, Any] = {
        "assignment": f"assignment-{number}",
        "campaign": "help",
        "kind": kind,
        "until": 0.0,
        "rubric": FLUENT if kind == "rating" else HELPFUL,
        "prompt": ({"role": "user", "content": f"Question {number}: what of the pub?"},),
        "responses": ANSWERS[:answers],
        "tags": ("wrong facts", "too long"),
        "practice": False,
    }
    return Task(**{**values, **changes})


def tasks(kind: Kind, count: int = 3, **changes: Any) -> list[Task]:
    return [task(kind, number, **changes) for number in range(count)]
