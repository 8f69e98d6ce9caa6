"""One model on one suite: its answers, what they score, and a report of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmops.errors import InputError
from llmops.eval.engines.engine import Answer, Engine, Generated
from llmops.eval.engines.likelihood import Likelihoods
from llmops.eval.items import Item, suite_digest
from llmops.eval.measured import ALL, Answered, Measured, content_of
from llmops.eval.measures import measures
from llmops.eval.metric import Metric, estimates
from llmops.eval.scorers.consulting import Consulted, Consulting
from llmops.eval.scorers.likelihood import ByLikelihood
from llmops.eval.scorers.reading import ByReading
from llmops.eval.suite import Suite
from llmops.events import Listener, Silent
from llmops.files import digest_of, write_json
from llmops.records import ModelSource, Report, Score
from llmops.stats import Estimate

if TYPE_CHECKING:
    from llmops.eval.reward_model import Rewards

CONFIDENCE = 0.95
"""Of the intervals in a report."""


def evaluate(
    suite: Suite,
    items: Sequence[Item],
    model: ModelSource,
    *,
    generate: Engine,
    out: Path | None = None,
    listener: Listener | None = None,
    judged: Path | None = None,
    likelihoods: Likelihoods | None = None,
    rewards: Rewards | None = None,
    weights_bytes: int | None = None,
    usd_per_hour: float | None = None,
) -> Report:
    """Have `model` answer `items` of `suite`, score the answers, and write the report into the folder `out`.

    Every answer is scored as it stands, also one that was cut at `max_tokens`; `truncated_share`
    says how many those are, and each is marked in the file.

    Args:
        items: of the suite, from `items_of`; at least one.
        generate: makes the answers; it is called once.
        out: gets `<suite>-<digest>.json` with every item; None writes nothing.
        judged: folder in which scorers that ask others keep what those said; None keeps nothing.
        likelihoods: of texts to the model; None where only its answers can be had, or it gives rewards.
        rewards: that the model gives texts; None where it is no reward model.
        weights_bytes: of the model's weights, its base's included.
        usd_per_hour: price of what runs the model; None where it is not known.

    Raises:
        InputError: there are no items, a scorer cannot use them, a score is no number, or a judge gives too few
            verdicts.
        EnvironmentFault: a judge does not answer.
    """
    listener = listener or Silent()
    if not items:
        raise InputError(f"the suite {suite.name} has no items", fix="give its source at least one row")
    for scorer in suite.scorers:
        scorer.chosen.check_items(items)
    chosen_by = [scorer.chosen for scorer in suite.scorers]
    readers = [_reader(suite, one, model, likelihoods, rewards) for one in chosen_by if isinstance(one, ByReading)]
    answers_count = len(readers) < len(chosen_by)
    if not answers_count:
        made = Generated(tuple(Answer(item.id, "", None, None, None) for item in items), 0.0, readers[0].engine())
    else:
        made = generate(items, suite.generation, listener=listener)
    answers = _in_order(items, made.answers)
    answered = [_answered(*pair) for pair in zip(items, answers, strict=True)]
    metrics: list[Metric] = []
    consulted: dict[str, Consulted] = {}
    for number, scorer in enumerate(suite.scorers):
        listener.advance(f"scores of {suite.name}", number, len(suite.scorers))
        chosen = scorer.chosen
        if isinstance(chosen, ByReading):
            reader = _reader(suite, chosen, model, likelihoods, rewards)
            metrics += _weighed(chosen, answered, suite.generation.prompt, reader, listener)
        elif isinstance(chosen, Consulting):
            said = consulted[chosen.names()[0]] = chosen.consult(answered, listener=listener, cache=judged)
            metrics += said.metrics
        else:
            metrics += chosen.measure(answered)
    listener.advance(f"scores of {suite.name}", len(suite.scorers), len(suite.scorers))
    check_numbers(metrics)
    measured = Measured(
        digest="",
        model={"reference": model.reference, "revision": model.revision, "digest": model.digest},
        suite={"name": suite.name, "digest": suite_digest(suite, items), "settings": _settings(suite)},
        engine=made.engine,
        items=tuple(_scored(place, item, metrics) for place, item in enumerate(answered)),
        metrics=tuple(metrics),
        measures=(
            measures(answered, seconds=made.seconds, kept=made.kept, usd_per_hour=usd_per_hour) if answers_count else {}
        )
        | ({} if weights_bytes is None else {"weights_gib": weights_bytes / 2**30})
        | {name: value for said in consulted.values() for name, value in said.measures.items()},
        judges={name: said.record for name, said in consulted.items() if said.record},
    )
    return written(measured, out)


def _reader(
    suite: Suite, scorer: ByReading, model: ModelSource, likelihoods: Likelihoods | None, rewards: Rewards | None
) -> Likelihoods | Rewards:
    """What reads the texts of a scorer; raises InputError where this model cannot."""
    reader = likelihoods if isinstance(scorer, ByLikelihood) else rewards
    if reader is not None:
        return reader
    if likelihoods is None and rewards is None:
        raise InputError(
            f"the suite {suite.name} has the model itself look at texts, and only its answers can be had",
            fix="evaluate the model itself, without --answers and --endpoint",
        )
    if rewards is None:
        raise InputError(
            f"the suite {suite.name} asks how good the model finds texts, and {model.reference} writes answers and "
            "rewards none",
            fix="evaluate a model that `method: {kind: reward}` trained",
        )
    raise InputError(
        f"the suite {suite.name} asks how likely texts are to the model, and {model.reference} is a reward model",
        fix="evaluate it on a suite with the one scorer reward_accuracy",
    )


def _weighed(
    scorer: ByReading,
    items: list[Answered],
    prompt: Literal["chat", "plain"],
    reader: Likelihoods | Rewards,
    listener: Listener,
) -> list[Metric]:
    """What the scorer makes of what was found; an item without an answer gets the one it stands for."""
    texts = [scorer.texts(item) for item in items]
    asked = [(item.messages, text) for item, of_item in zip(items, texts, strict=True) for text in of_item]
    read = iter(reader(asked, prompt=prompt, listener=listener))
    found = [[next(read) for _ in of_item] for of_item in texts]
    for place, (item, of_item) in enumerate(zip(items, found, strict=True)):
        if not item.answer:
            items[place] = replace(item, answer=scorer.answer(item, of_item))
    return scorer.weigh(items, found)


def written(measured: Measured, out: Path | None) -> Report:
    """The report of what was measured: its scores with their intervals, its digest, and its file in `out`.

    Args:
        measured: complete but for `digest`, `file`, `scores` and `slices`, which are computed here.
    """
    metrics = measured.metrics
    found = estimates(metrics, measured.groups, measured.clusters)
    by_group = {group: _scores(metrics, of_group) for group, of_group in found.items()}
    scores, slices = by_group[ALL], {group: some for group, some in by_group.items() if group != ALL}
    content = content_of(
        measured,
        scores=[asdict(score) for score in scores],
        slices={name: [asdict(score) for score in of_slice] for name, of_slice in slices.items()},
    )
    digest = digest_of(content)
    file = None
    suite = str(measured.suite["name"])
    if out is not None:
        file = out / f"{suite.replace(':', '-').replace('/', '-')}-{digest[:12]}.json"
        times = {item.id: round(item.seconds, 4) for item in measured.items if item.seconds is not None}
        sure = {item.id: round(item.confidence, 6) for item in measured.items if item.confidence is not None}
        beside = {"measures": measured.measures, "seconds": times, **({"confidence": sure} if sure else {})}
        write_json(file, {**content, "digest": digest, **beside})
    return Report(
        suite=suite,
        model=measured.name,
        digest=digest,
        items=len(measured.items),
        scores=scores,
        measures=measured.measures,
        file=file,
        suite_digest=str(measured.suite["digest"]),
        model_digest=str(measured.model["digest"]),
        slices=slices,
        slice_items={group: len(places) for group, places in measured.groups.items() if group != ALL},
    )


def _in_order(items: Sequence[Item], answers: Sequence[Answer]) -> list[Answer]:
    """Answers by the ids of the items; an engine that leaves one out, or adds one, has a bug."""
    by_id = {answer.item: answer for answer in answers}
    wanted = [item.id for item in items]
    if len(answers) != len(items) or set(by_id) != set(wanted):
        raise ValueError(f"{len(items)} items were asked, {len(answers)} answers came, {len(by_id)} of them distinct")
    return [by_id[one] for one in wanted]


def _scores(metrics: Sequence[Metric], found: Mapping[str, Estimate]) -> tuple[Score, ...]:
    scores = []
    for metric in metrics:
        estimate = found[metric.name]
        if math.isnan(estimate.value):
            continue  # not known of this slice
        low, high = estimate.interval(CONFIDENCE)
        scores.append(Score(metric.name, estimate.value, metric.signature, _finite(low), _finite(high), metric.better))
    return tuple(scores)


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def check_numbers(metrics: Sequence[Metric]) -> None:
    """Raises InputError where a score, or what it is computed from, is no number."""
    for metric in metrics:
        # An item alone may have no value (a class it is not of); all of them together must.
        for value in (metric.value(), *metric.statistics.sum(1)):
            if not math.isfinite(value):
                raise InputError(
                    f"the score {metric.name} is {value}, which is no number",
                    fix="look at the answers and references it is computed on, or leave this scorer out of the suite",
                )


def _settings(suite: Suite) -> Mapping[str, Any]:
    """The suite as it was understood, every default filled in."""
    return {**suite.model_dump(mode="json"), "scorers": [one.resolved() for one in suite.scorers]}


def _answered(item: Item, answer: Answer) -> Answered:
    return Answered(
        id=item.id,
        messages=item.messages,
        references=item.references,
        slices=item.slices,
        cluster=item.cluster,
        choices=item.choices,
        answer=answer.text,
        finish=answer.finish,
        tokens=answer.tokens,
        seconds=answer.seconds,
        confidence=answer.confidence,
    )


def _scored(place: int, item: Answered, metrics: Sequence[Metric]) -> Answered:
    return replace(item, scores={metric.name: float(metric.per_item[place]) for metric in metrics})
