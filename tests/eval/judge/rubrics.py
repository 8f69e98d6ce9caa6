"""Small rubrics of each kind, and prompts that fit them."""

from __future__ import annotations

from typing import Any

from llmops.eval.judge.prompt import JudgePrompt
from llmops.rubric import Rubric

RATE = "Rate.\nPROMPT {prompt}\nANSWER {answer}\nGOOD {reference}\n{scale}\n{verdict}"
COMPARE = "Compare.\nPROMPT {prompt}\nFIRST {first}\nSECOND {second}\n{verdict}"


def rubric(**scale: Any) -> Rubric:
    return Rubric.model_validate({"name": "r", "version": 1, "question": "How good?", "scale": scale})


PAIRWISE = rubric(kind="pairwise")
FORCED = rubric(kind="pairwise", ties=False)
LIKERT = rubric(kind="likert", labels=["bad", "poor", "so-so", "good", "best"])
ATTRIBUTES = rubric(
    kind="attributes",
    attributes={"right": {"question": "Is it right?"}, "rude": {"question": "Is it rude?", "good": "no"}},
)
SEVERAL = rubric(
    kind="attributes",
    labels=["bad", "so-so", "good"],
    attributes={"right": {"question": "Is it right?"}, "clear": {"question": "Is it clear?"}},
)

RATING_PROMPT = JudgePrompt(RATE, LIKERT)
PAIRWISE_PROMPT = JudgePrompt(COMPARE, PAIRWISE)
