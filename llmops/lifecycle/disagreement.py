"""How far judges disagree on an item, or a router with what was better: a number from 0 to 1 by which it is drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from llmops.errors import InputError, nearest
from llmops.eval.judge.asking import Judge
from llmops.eval.measured import Measured
from llmops.eval.scorers.judge import WORTH, JudgeScorer
from llmops.events import Listener
from llmops.feedback.campaign import AgainstMetric, ByJudges, ByRouter
from llmops.feedback.drawing import drawn, with_probability
from llmops.feedback.items import NewItem
from llmops.rubric import Attributes, Likert, Pairwise, value_of
from llmops.serve.routing.choose import Rules, choose
from llmops.serve.routing.features import features_of
from llmops.serve.routing.router import read_router

LEAST = 0.05
"""Weight of what nothing speaks for, beside 1 for what all speaks for: nothing is never drawn."""

Opinions = Sequence[float]
"""What was said of one thing, each from 0 (worst, or the second of two) to 1; NaN where nothing was said."""


def policy_of(by: str | ByJudges | AgainstMetric | ByRouter) -> str:
    """How an item was drawn, as it stands with the item."""
    match by:
        case ByJudges():
            return f"judges against {by.against}"
        case AgainstMetric():
            return f"judges against {by.judges_against}"
        case ByRouter():
            return f"router by {by.metric}"
        case str():
            return by


def weight(disagreement: float) -> float:
    """Of an item in the draw."""
    return max(LEAST, disagreement)


def drawn_by(
    disagreement: Sequence[float], items: Sequence[NewItem], sample: int | None, draw: random.Random
) -> list[NewItem]:
    """`sample` of the items in random order, likelier the more is disagreed on, each with its probability times that
    of this draw; None takes all."""
    chosen = drawn([weight(one) for one in disagreement], sample, draw)
    return [with_probability(items[place], chance) for place, chance in chosen]


def spread(opinions: Opinions) -> float:
    """Mean absolute difference over all pairs of opinions, 0 to 1; 0 where there are not two.

    1 is reached by two opinions at the ends; of n opinions at most ⌈n/2⌉⌊n/2⌋ of the n(n−1)/2 pairs are apart.
    """
    given = [one for one in opinions if not math.isnan(one)]
    if len(given) < 2:
        return 0.0
    pairs = [abs(one - two) for one, two in combinations(given, 2)]
    return sum(pairs) / len(pairs)


def against_choice(opinions: Opinions) -> float:
    """How far opinions on a pair are for the second answer, the first being the one that was chosen, 0 to 1.

    1 − 2 · their mean where that is positive: 0 where they are for the first or undecided, 1 where all of them are for
    the second.
    """
    given = [one for one in opinions if not math.isnan(one)]
    return max(0.0, 1.0 - 2.0 * sum(given) / len(given)) if given else 0.0


def regret(gain: float, *, large: bool) -> float:
    """How much better the model that was not chosen answered, 0 to 1.

    Args:
        gain: what the large model's answer is better by, −1 to 1.
        large: it was chosen.
    """
    return max(0.0, -gain if large else gain)


def judged(wanted: ByJudges, rubric: str, items: Sequence[NewItem], *, listener: Listener) -> list[float]:
    """Ask the judges about items of one answer or of two, and say how far they disagree on each.

    Of a pair, a judge with a pairwise rubric has two opinions, one in each order (1 the first answer, 0 the second, ½ a
    tie), one that rates answers has (1 + first − second) / 2; of one answer it has its rating from 0 to 1.

    Args:
        rubric: file of the campaign's rubric, by which they are asked.

    Raises:
        InputError: the judges, or what they are asked, cannot disagree; rubric or prompt is faulty.
        EnvironmentFault: a judge's server does not answer.
    """
    pairs = all(len(item.responses) == 2 for item in items)
    judges = [_judge(one.model_dump(), rubric) for one in wanted.judges]
    scale = judges[0].prompt.rubric.scale
    if wanted.against == "router" and not pairs:
        raise InputError(
            "judges can tell against the router only where they compare two answers, and this campaign shows one",
            fix="make it a pairwise campaign, of a route with `shadow`, or draw `by: router`",
        )
    if isinstance(scale, Pairwise) and not pairs:
        raise InputError(
            f"the rubric {rubric} compares two answers, and this campaign shows one",
            fix="make it a pairwise campaign, or name a rubric that rates one answer",
        )
    if wanted.against == "one another" and len(judges) == 1 and not isinstance(scale, Pairwise):
        raise InputError(
            f"one judge that rates answers by {rubric} has nobody to disagree with",
            fix="name a second judge under items.by.judges, or a rubric that compares, which is asked in both orders",
        )
    said = [_opinions(judge, items, listener) for judge in judges]
    disagree = against_choice if wanted.against == "router" else spread
    return [disagree([one for of_judge in of_item for one in of_judge]) for of_item in zip(*said, strict=True)]


def _judge(settings: Mapping[str, object], rubric: str) -> Judge:
    judge = JudgeScorer.model_validate({"rubric": rubric, **settings}).judge()
    if judge.prompt.wants_reference:
        raise InputError(
            f"the judge's prompt {settings['prompt']} asks for a reference, and requests that were served have none",
            fix="name a prompt without {reference}",
        )
    return judge


def _opinions(judge: Judge, items: Sequence[NewItem], listener: Listener) -> list[list[float]]:
    """A judge's opinions on each item."""
    scale = judge.prompt.rubric.scale
    asked = [item.prompt for item in items]
    sides = [[item.responses[side].text for item in items] for side in range(min(len(i.responses) for i in items))]
    if isinstance(scale, Pairwise):
        said = judge.prefer(asked, sides[0], sides[1], listener=listener)
        return [[_worth(one.forward), _worth(one.backward)] for one in said]
    rated = [_ratings(judge, scale, asked, texts, listener) for texts in sides]
    if len(rated) == 1:
        return [[one] for one in rated[0]]
    return [[(1.0 + first - second) / 2.0] for first, second in zip(rated[0], rated[1], strict=True)]


def _ratings(
    judge: Judge, scale: Likert | Attributes, asked: Sequence[Sequence[Mapping[str, object]]],
    texts: Sequence[str], listener: Listener,
) -> list[float]:  # fmt: skip
    found = []
    for one in judge.rate(asked, texts, listener=listener):
        assert not isinstance(one.verdict, str)
        found.append(math.nan if one.verdict is None else value_of(scale, one.verdict))
    return found


def _worth(choice: str | None) -> float:
    return math.nan if choice is None else WORTH[choice]


def reported(wanted: str | AgainstMetric | ByRouter, reports: Sequence[Measured], ids: Sequence[str]) -> list[float]:
    """How far what reports hold disagrees on each of the items with these ids.

    `judges`: the largest `spread` of verdicts on one answer by one rubric: of several judges, or of the two orders in
    which one compared the answer with the reference. `judges_against`: the largest distance on one answer of a judge's
    mean verdict and the metric, both from 0 to 1. A router: the `regret` of what it would choose, by the metric from 0
    to 1.

    Raises:
        InputError: the reports hold nothing to tell it by.
    """
    match wanted:
        case AgainstMetric():
            told = _against_metric(wanted.judges_against, reports)
        case ByRouter():
            told = _of_router(wanted, reports)
        case _:
            told = _of_judges(reports)
    return [told(one) for one in ids]


def _of_judges(reports: Sequence[Measured]) -> Callable[[str], float]:
    panels = [panel for report in reports for panel in _panels(report)]
    if not panels:
        raise InputError(
            "no answer in the reports was judged twice by one rubric, so no verdicts can differ",
            fix="evaluate with a judge whose rubric compares (it is asked in both orders) or with two judges of one "
            "rubric, by this version of llmops; or draw `by: {judges_against: METRIC}`",
        )
    return lambda item: max(spread(panel.get(item, ())) for panel in panels)


def _panels(report: Measured) -> Iterator[Mapping[str, Opinions]]:
    """Opinions on each answer of a report, by rubric, where there are two or more."""
    by_rubric: dict[str, list[Mapping[str, Opinions]]] = {}
    for name, record in report.judges.items():
        orders = record.get("orders")
        scores = {item.id: (item.scores[name],) for item in report.items if name in item.scores}
        said: Mapping[str, Opinions] = scores
        if orders is not None:
            said = {item: tuple(map(_worth, both)) for item, both in orders.items()}
        by_rubric.setdefault(str(record["rubric"]["digest"]), []).append(said)
    for panel in by_rubric.values():
        ids = {item for said in panel for item in said}
        yielded = {item: tuple(one for said in panel for one in said.get(item, ())) for item in ids}
        if any(len(opinions) > 1 for opinions in yielded.values()):
            yield yielded


def _against_metric(name: str, reports: Sequence[Measured]) -> Callable[[str], float]:
    found: list[dict[str, float]] = []
    for report in reports:
        if not report.judges:
            raise InputError(
                f"the report of {report.name} has no judge's verdicts",
                fix="evaluate with a suite that has a `judge` among its scorers",
            )
        if name in report.judges:
            raise InputError(
                f"{name} is a judge itself", fix="name a metric that is none, or draw `by: judges` of several judges"
            )
        metric = _in_shares(name, report)
        for judge in report.judges:
            apart = {item.id: abs(item.scores[judge] - metric[item.id]) for item in report.items}
            found.append({item: 0.0 if math.isnan(far) else far for item, far in apart.items()})
    return lambda item: max(of_answer.get(item, 0.0) for of_answer in found)


def _of_router(wanted: ByRouter, reports: Sequence[Measured]) -> Callable[[str], float]:
    if len(reports) != 2:
        raise InputError(
            f"a router chooses between two models, {len(reports)} reports are given",
            fix="name the reports of its small and its large model under items.reports",
        )
    rules = Rules(0, read_router(Path(wanted.router)))  # the number counts only without a router
    grades = [_in_shares(wanted.metric, report) for report in reports]
    metrics = [one for report in reports if (one := report.metric(wanted.metric)) is not None]
    first, second = (one.value() * (1 if one.better == "higher" else -1) for one in metrics)
    small, large = grades if first <= second else grades[::-1]
    messages = {item.id: item.messages for item in reports[0].items}

    def told(item: str) -> float:
        chosen = choose(features_of({"messages": list(messages[item])}), rules)
        gain = large[item] - small[item]
        return 0.0 if math.isnan(gain) else regret(gain, large=chosen.size == "large")

    return told


def _in_shares(name: str, report: Measured) -> dict[str, float]:
    """A metric of each item, from 0 (worst) to 1."""
    metric = report.metric(name)
    if metric is None:
        known = [one.name for one in report.metrics]
        raise InputError(
            f"the report of {report.name} has no metric {name!r}{nearest(name, known)}",
            fix=f"name one of its metrics: {', '.join(known)}",
        )
    if metric.span is None or not metric.by_item:
        raise InputError(
            f"{name} has no value from 0 to 1 of one answer",
            fix="name a metric of each answer that has an upper bound, such as exact_match, rougeL or chrf",
        )
    shares = {item.id: item.scores[name] / metric.span for item in report.items}
    return shares if metric.better == "higher" else {item: 1.0 - share for item, share in shares.items()}
