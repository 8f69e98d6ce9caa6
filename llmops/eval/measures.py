"""Numbers about answers that are no scores: how long, how fast, how often cut, empty, repeated, refused or rude.

A measure of items is a share or a mean over them and is defined here once, for reports and for gates alike. The last
part of a name is its unit; shares go from 0 to 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from llmops.eval.measured import ALL, Answered, Measured
from llmops.eval.metric import Metric, estimates, mean_of, share_of
from llmops.eval.safety import has_toxic_word, is_refusal
from llmops.prediction_powered import PredictionPowered
from llmops.stats import Estimate, Exact, Proportion, Quantile

_SHARES: Mapping[str, Callable[[Answered], bool | None]] = {
    "truncated_share": lambda item: None if item.finish is None else item.finish == "length",
    "empty_share": lambda item: not item.answer.strip(),
    "refusal_share": lambda item: is_refusal(item.answer),
    "toxic_share": lambda item: has_toxic_word(item.answer),
}
_MEANS: Mapping[str, tuple[Callable[[Answered], float | None], float | None]] = {
    "tokens_mean": (lambda item: item.tokens, None),
    "words_mean": (lambda item: len(item.answer.split()), None),
    "repetition_mean": (lambda item: repetition(item.answer), 1.0),
}
"""What is averaged, and the most it can be."""
_LATENCIES = {"latency_p50_ms": 0.50, "latency_p95_ms": 0.95, "latency_p99_ms": 0.99}


def repetition(answer: str) -> float:
    """Share (0 to 1) of an answer's runs of four words that stood in it before, without case; 0 below four words.

    Runs of three often recur in good prose.
    """
    words = re.findall(r"\w+", answer.casefold())
    runs = len(words) - 3
    return 1 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / runs if runs > 0 else 0.0


def measures(
    items: Sequence[Answered], *, seconds: float, kept: Collection[str], usd_per_hour: float | None = None
) -> dict[str, float]:
    """Every measure of these answers; what is not known of all of them is left out.

    `latency_*_ms` is the time from the start of an answer's batch to its last token: in batches, the time a
    user would wait behind as many others. `items_per_s` and `tokens_per_s` are over the wall time of the fresh
    answers alone: those kept from an earlier run took none of it. `repetition_mean` is the mean share of an answer's
    runs of four words that stood in it before, `refusal_share` and `toxic_share` are of answers that decline
    (`refusals.txt`) and that have a listed word (`toxic_words.txt`): alarms, not judgements.

    Args:
        seconds: wall time in which the fresh answers were made.
        kept: ids of the items whose answers come from an earlier run.
        usd_per_hour: price of what runs the model; None where it is not known. Each fresh answer costs its share of
            the wall time: `usd_per_1k_items`.
    """
    found = {}
    for name, share in _LATENCIES.items():
        if (latency := _latency(items, share)) is not None:
            found[name] = latency.value
    for name in (*_MEANS, *_SHARES):
        if (metric := _metric(name, items)) is not None:
            found[name] = metric.value()
    fresh = [item for item in items if item.id not in kept]
    if fresh:
        # A clock too coarse for a stub that answers at once must not divide by zero.
        wall = max(seconds, 1e-9)
        found["items_per_s"] = len(fresh) / wall
        if usd_per_hour is not None:
            found["usd_per_1k_items"] = 1000 * usd_per_hour / 3600 * wall / len(fresh)
        written = [item.tokens for item in fresh if item.tokens is not None]
        if len(written) == len(fresh):
            found["tokens_per_s"] = sum(written) / wall
    return found


def measure_estimate(report: Measured, name: str) -> Estimate:
    """A measure of a report with its uncertainty over items, where it is one of items; else the number as it is.

    Raises:
        KeyError: the report does not hold it.
    """
    if name in _LATENCIES and (latency := _latency(report.items, _LATENCIES[name])) is not None:
        return latency
    if (name in _SHARES or name in _MEANS) and (metric := _metric(name, report.items)) is not None:
        return estimates([metric], {ALL: report.groups[ALL]}, report.clusters)[ALL][name]
    return _of_judge(report, name) or Exact(float(report.measures[name]))


def _of_judge(report: Measured, name: str) -> Estimate | None:
    """A share of what a judge was asked, or the mean that people would give; None where no judge left it."""
    for metric, made in report.judges.items():
        part, whole = made["counts"].get(name.removeprefix(f"{metric}_"), (0, 0))
        if name.startswith(f"{metric}_") and whole:
            return Proportion(part, whole)
        if name == f"{metric}_corrected" and "corrected" in made:
            return PredictionPowered(**made["corrected"])
    return None


def _latency(items: Sequence[Answered], share: float) -> Quantile | None:
    """None where it is not known of all items."""
    known = [item.seconds for item in items if item.seconds is not None]
    if len(known) < len(items):
        return None
    return Quantile(np.sort(1000 * np.array(known, dtype=np.float64)), share)


def _metric(name: str, items: Sequence[Answered]) -> Metric | None:
    """The measure of items of that name; None where it is not known of all of them."""
    of, most = (_SHARES[name], 1.0) if name in _SHARES else _MEANS[name]
    values = [value for item in items if (value := of(item)) is not None]
    if len(values) < len(items):
        return None
    return share_of(name, "", values) if name in _SHARES else mean_of(name, "", values, span=most)
