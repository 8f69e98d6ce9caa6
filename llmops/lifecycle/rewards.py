"""What a recipe rewards, as functions: our scorers on each answer, its row's completion the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llmops.errors import InputError, LlmopsError, nearest
from llmops.eval.scorers.catalog import Scorer
from llmops.eval.scorers.ours import scorers
from llmops.eval.scorers.reading import ByReading
from llmops.eval.scorers.reward import RewardScorer
from llmops.files import digest_of
from llmops.finetune.method import Grpo
from llmops.finetune.reinforcement import ScorerReward
from llmops.finetune.shape import ModelShape, shape_at

if TYPE_CHECKING:
    from llmops.eval.measured import Answered
    from llmops.finetune.grpo import Reward


def check_rewards(method: Grpo) -> list[tuple[str, Scorer, str]]:
    """Each reward's name, its scorer, and the metric of it that counts; imports nothing heavy.

    Raises:
        InputError: there is no such scorer or metric, its settings are faulty, or it does not look at answers.
    """
    found: list[tuple[str, Scorer, str]] = []
    for number, wanted in enumerate(method.rewards):
        at = f"method.rewards.{number}"
        scorer = _scorer(wanted, at)
        metrics = scorer.names()
        metric = wanted.metric or metrics[0]
        if wanted.metric is None and len(metrics) > 1:
            raise InputError(f"{at}: this scorer has several metrics", fix=f"set metric to one of {', '.join(metrics)}")
        if metric not in metrics:
            raise InputError(
                f"{at}.metric: the scorer has no metric {metric!r}{nearest(metric, metrics)}",
                fix=f"use one of: {', '.join(metrics)}",
            )
        taken = sum(name == metric or name.startswith(f"{metric}_") for name, *_ in found)
        found.append((f"{metric}_{taken + 1}" if taken else metric, scorer, metric))
    return found


def rewards_of(method: Grpo) -> list[Reward]:
    """The rewards as functions of rows and answers; a reward model or a judge is looked for now.

    Raises:
        InputError: as `check_rewards`; or there is no such model.
        EnvironmentFault: a model or a judge's server cannot be reached.
    """
    from llmops.finetune.grpo import Reward

    found = []
    for (name, scorer, metric), wanted in zip(check_rewards(method), method.rewards, strict=True):
        scorer.check_items(())
        found.append(Reward(name, wanted.weight, _Scored(scorer, metric)))
    return found


def reward_shapes(method: Grpo) -> tuple[list[ModelShape], list[str]]:
    """The shapes of the reward models that are held while training, and why one is not known; reads no weights.

    One that two rewards name is held by each of them.
    """
    found: list[ModelShape] = []
    unknown = []
    for _, scorer, _ in check_rewards(method):
        if not isinstance(scorer, RewardScorer):
            continue
        try:
            model = scorer.found
            whole = model.base or model.source
            found.append(shape_at(whole.folder, named=whole.reference))
        except LlmopsError as fault:
            unknown.append(f"the memory of the reward model {scorer.model} is not counted: {fault.problem}")
    return found, unknown


def rewards_digest(method: Grpo) -> str:
    """sha256 over all that the rewards depend on, every default filled in, a reward model's bytes among it."""
    return digest_of(
        [
            [name, metric, wanted.weight, scorer.model_dump(mode="json"), *_bytes_of(scorer)]
            for (name, scorer, metric), wanted in zip(check_rewards(method), method.rewards, strict=True)
        ]
    )


def _bytes_of(scorer: Scorer) -> list[str]:
    if not isinstance(scorer, RewardScorer):
        return []
    model = scorer.found
    return [model.source.digest, *([model.base.digest] if model.base else [])]


def _scorer(wanted: ScorerReward, at: str) -> Scorer:
    ((name, settings),) = wanted.scorer.items()
    known = sorted(scorers)
    if name not in known:
        raise InputError(
            f"{at}.scorer: no scorer is called {name!r}{nearest(name, known)}", fix=f"use one of: {', '.join(known)}"
        )
    try:
        scorer = scorers[name].model_validate(settings or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (at, "scorer", name, *first["loc"])))
        raise InputError(f"{where}: {first['msg']}", fix="see what it takes: llmops explain suite scorers") from error
    if isinstance(scorer, ByReading):
        raise InputError(
            f"{at}.scorer: {name} has the model itself look at texts, and a reward is of an answer",
            fix="choose a scorer that reads answers",
        )
    return scorer


class _Scored:
    """A scorer's metric of each answer alone."""

    def __init__(self, scorer: Scorer, metric: str) -> None:
        self._scorer, self._metric = scorer, metric

    def __call__(self, rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float]:
        items = [_answered(number, row, answer) for number, (row, answer) in enumerate(zip(rows, answers, strict=True))]
        metric = next(one for one in self._scorer.measure(items) if one.name == self._metric)
        sign = 1.0 if metric.better == "higher" else -1.0
        values = [sign * float(value) for value in metric.per_item]
        if not all(map(math.isfinite, values)):
            raise InputError(
                f"the metric {self._metric} has no value of one answer alone", fix="reward a metric that has"
            )
        return values


def _answered(number: int, row: Mapping[str, Any], answer: str) -> Answered:
    from llmops.eval.measured import Answered

    messages = tuple(row["messages"])
    return Answered(
        id=digest_of([number, *messages]),
        messages=messages,
        references=tuple(row["references"]),
        slices={},
        cluster="",
        answer=answer,
        tokens=None,
        finish=None,
        seconds=None,
        scores={},
    )
