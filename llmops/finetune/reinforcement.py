"""`method: {kind: grpo}` as users write it: what is rewarded, and how far the model may move for it.

Knows nothing of scorers: `llmops.lifecycle.rewards` makes functions of what is named here.
"""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from llmops.config import Settings


class ScorerReward(Settings):
    """What a scorer says of each answer, its references those of the row."""

    scorer: dict[str, dict[str, Any] | None]
    """One scorer as a suite writes it: `{rouge: {variants: [rougeL]}}`, or a reward model: `{reward: {model:
    models:/name@champion}}`; `llmops explain suite scorers` lists them. Where lower is better, its value counts
    negatively."""
    metric: str | None = None
    """Which of the scorer's metrics; null takes its only one."""
    weight: float = 1.0
    """How much it counts beside the other rewards; some go from 0 to 1, others to 100."""

    @field_validator("scorer")
    @classmethod
    def _exactly_one(cls, given: dict[str, dict[str, Any] | None]) -> dict[str, dict[str, Any] | None]:
        if len(given) != 1:
            raise ValueError(f"{len(given)} scorers are named; name one, as in `{{bleu: {{}}}}`")
        return given

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a weight of 0 rewards nothing; leave the reward out")
        return weight
