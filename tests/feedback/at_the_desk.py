"""Raters at the desk of one campaign, `c`, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmops.feedback.desk import Desk
from llmops.feedback.tasks import NoTask, Task
from llmops.rubric import Rubric
from tests.feedback.small_campaigns import (
    FIRST,
    HELPFULNESS,
    given,
)

SECOND = {"kind": "pairwise", "step": -3}
SEVERAL = {"correct": 5, "complete": 1, "clear": 3}
NEW_WORDS = Rubric.model_validate({**HELPFULNESS.model_dump(), "version": 2, "question": "Which is better?"})


def given_task(desk: Desk, rater: str, ask: Callable[[str, str], Task | NoTask] | None = None) -> Task:
    task = (ask or desk.next)("c", rater)
    assert isinstance(task, Task), task
    return task


def rate_one(desk: Desk, rater: str, verdict: dict[str, Any] | None = FIRST) -> Task:
    task = given_task(desk, rater)
    desk.submit(given(task, verdict), rater)
    return task


def number_of(task: Task) -> int:
    return int(str(task.prompt[0]["content"]).removeprefix("question "))
