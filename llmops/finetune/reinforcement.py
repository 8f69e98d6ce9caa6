"""`method: {kind: grpo}` as users write it: what is rewarded, and how far the model may move for it.

Knows nothing of scorers: `llmops.lifecycle.rewards` makes functions of what is named here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from llmops.config import Settings


class ScorerReward(Settings):
    """What a scorer says of each answer, its references those of the row."""

    scorer: dict[str, dict[str, Any] | None]
    """One scorer as a suite writes it: `{rouge: {variants: [rougeL]}}`; `llmops explain suite scorers` lists them.
    Where lower is better, its value counts negatively."""
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


class Grpo(Settings):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): the model answers each prompt several
    times, and what scored above its group's mean becomes likelier.

    TRL's trainer does it (`pip install 'llmops[grpo]'`), in one process. It saves nothing on the way: an interrupted
    run begins anew. Rows are asked their prompts; their completions are the references that scorers compare with.
    """

    kind: Literal["grpo"]
    rewards: Annotated[list[ScorerReward], Field(min_length=1)]
    """What an answer earns: the weighted sum of these."""
    generations: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt, compared with each other; `batch.sequences` is a multiple of it."""
    max_tokens: PositiveInt = 256
    """Longest answer in tokens."""
    temperature: PositiveFloat = 1.0
    """How differently the answers to one prompt are drawn."""
    beta: NonNegativeFloat = 0.0
    """Price of leaving the base, per nat of KL; above 0 with full fine-tuning the base is held a second time."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far one answer's probability ratio may move the model before it is clipped."""
    iterations: PositiveInt = 1
    """Updates on each set of answers; more than one saves generation and leans on the clipping."""
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """How tokens are averaged: `dapo` over all of an update (arXiv:2503.14476), `grpo` first over each answer, which
    favours short ones, `dr_grpo` over `max_tokens` (arXiv:2503.20783), `bnpo` over each pass."""
    scale: Literal["group", "batch", "none"] = "group"
    """What a reward's distance from its group's mean is divided by: the group's deviation, the batch's, nothing."""
    generate: Literal["auto", "vllm", "transformers"] = "auto"
    """What answers while training: `auto` takes vLLM beside the model on a GPU where it is installed."""
    vllm_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the GPU that vLLM takes; it takes it where it answers."""
