"""A judge's mean corrected by the people who rated some of the very answers it judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import InputError, nearest
from llmops.eval.judge.prompt import conversation
from llmops.eval.judge.ratings import Given, Ratings
from llmops.eval.measured import Answered, Measured
from llmops.eval.scorers.judge import WORTH
from llmops.prediction_powered import PredictionPowered, corrected_mean
from llmops.rubric import Pairwise, Rubric, load_rubric, value_of


@dataclass(frozen=True, slots=True)
class Corrected:
    """The corrected mean of a judge's metric, beside the one without the judge.

    Attributes:
        alone: of the human ratings alone, without the judge.
        strange: things people rated that are none of these answers.
        without: answers without a verdict, which are left out.
    """

    estimate: PredictionPowered
    alone: PredictionPowered
    strange: int
    without: int


def rubric_of(report: Measured, metric: str) -> Rubric:
    """The rubric by which a report's metric was judged, out of the file its suite names.

    Raises:
        InputError: no judge made the metric, or the file was changed since.
    """
    made = report.judges.get(metric)
    if made is None:
        raise InputError(
            f"no judge made {metric} of this report{nearest(metric, report.judges)}",
            fix=f"name one that a judge made: {', '.join(report.judges) or 'this report has none'}",
        )
    scorers: list[Mapping[str, Any]] = report.suite["settings"]["scorers"]
    file = next(Path(one["judge"]["rubric"]) for one in scorers if one.get("judge", {}).get("name") == metric)
    rubric = load_rubric(file)
    if rubric.digest != made["rubric"]["digest"]:
        raise InputError(
            f"the rubric {file} was changed since {metric} was judged by it",
            fix="put it back, or evaluate the model again with `llmops eval`",
        )
    return rubric


def correct(
    items: Sequence[Answered], judged: Sequence[float], rubric: Rubric, ratings: Ratings, *, where: str
) -> Corrected:
    """The mean people would give all these answers, of which they rated some, chosen at random.

    Unbiased however wrong the judge is; the better it follows people, the narrower. Ratings of other answers say
    nothing about these and are counted only.

    Args:
        judged: `(items,)` the judge's value of each; NaN where it gave no verdict.
        where: whose answers they are, in words.

    Raises:
        InputError: people rated fewer than two of them.
    """
    known = {(one.prompt, *one.texts): one for one in ratings.rated}
    clusters: dict[str, int] = {}
    human: list[tuple[float, float, int]] = []
    alone: list[tuple[float, int]] = []
    used: set[tuple[str, ...]] = set()
    without = 0
    for item, value in zip(items, judged, strict=True):
        cluster = clusters.setdefault(item.cluster, len(clusters))
        key = next((key for key in _keys(item, rubric) if key in known), None)
        if key is not None:
            used.add(key)
        if math.isnan(value):
            without += 1
        elif key is None:
            alone.append((value, cluster))
        else:
            turned = isinstance(rubric.scale, Pairwise) and key[1] != item.answer
            human.append((_mean(known[key].ratings, rubric, turned=turned), value, cluster))
    if len(human) < 2:
        raise InputError(
            f"people rated {len(human)} of the {len(items)} answers {where}, and two are needed",
            fix="rate some of these very answers, chosen at random; prompt and answer must be the same texts",
        )
    said, theirs, of_rated = (list(one) for one in zip(*human, strict=True))
    values, others = [value for value, _ in alone], [cluster for _, cluster in alone]
    estimate = corrected_mean(said, theirs, values, clusters=of_rated, clusters_alone=others, span=1.0)
    plain = corrected_mean(said, theirs, values, clusters=of_rated, clusters_alone=others, power=0.0)
    return Corrected(estimate, plain, len(known.keys() - used), without)


def _keys(item: Answered, rubric: Rubric) -> list[tuple[str, ...]]:
    """Under what a rating of this answer may stand: by the user's turns, or by the whole conversation."""
    prompts = (item.prompt, conversation(item.messages))
    if not isinstance(rubric.scale, Pairwise):
        return [(prompt, item.answer) for prompt in prompts]
    pair = (item.answer, item.references[0])
    return [(prompt, *order) for prompt in prompts for order in (pair, pair[::-1])]


def _mean(ratings: tuple[Given, ...], rubric: Rubric, *, turned: bool) -> float:
    if isinstance(rubric.scale, Pairwise):
        worth = sum(WORTH[str(one)] for one in ratings) / len(ratings)
        return 1 - worth if turned else worth
    return sum(value_of(rubric.scale, one) for one in ratings if not isinstance(one, str)) / len(ratings)
