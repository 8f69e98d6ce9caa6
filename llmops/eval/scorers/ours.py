"""The catalog with the scorers that come with llmops in it: importing their files puts them there."""

from llmops.eval.scorers import (
    classes,
    code,
    corpus,
    grounding,
    hub,
    judge,
    likelihood,
    pairs,
    reward,
    rouge,
    safety,
    structure,
    text,
)
from llmops.eval.scorers.catalog import scorers

__all__ = [
    "classes",
    "code",
    "corpus",
    "grounding",
    "hub",
    "judge",
    "likelihood",
    "pairs",
    "reward",
    "rouge",
    "safety",
    "scorers",
    "structure",
    "text",
]
