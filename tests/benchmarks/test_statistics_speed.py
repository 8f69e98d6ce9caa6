"""Resampling a corpus metric, and a paired test against sacreBLEU's own on the same answers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from llmops.eval.metric import Metric, differences, estimates, exchange_ps
from llmops.eval.scorers.corpus import Bleu
from llmops.stats import Resampled, bootstrap_p
from tests.eval.measurements import answered

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

RESAMPLES = 10_000
WORDS = [f"w{number}" for number in range(200)]


def corpus(items: int) -> tuple[list[str], list[str], list[list[str]]]:
    """Answers of two models, the second a little better, and one reference each, of 20 words."""
    draw = np.random.default_rng(0)
    references = [[" ".join(draw.choice(WORDS, 20))] for _ in range(items)]

    def noisy(share: float) -> list[str]:
        return [
            " ".join(str(draw.choice(WORDS)) if draw.random() < share else word for word in reference.split())
            for (reference,) in references
        ]

    return noisy(0.30), noisy(0.29), references


def seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def test_ten_thousand_resamples_of_bleu_on_three_thousand_items_take_a_second() -> None:
    answers, _, references = corpus(3000)
    (metric,) = Bleu().measure(answered(answers, references))
    took = statistics.median(
        seconds(lambda: estimates([metric], {"": range(3000)})[""]["bleu"].interval(0.95)) for _ in range(5)
    )
    print(f"\n{RESAMPLES:,} resamples of BLEU on 3,000 items: median {took:.2f} s")
    assert took <= 1.0


def randomised(first: Metric, second: Metric) -> None:
    exchange_ps([first], [second], {"": range(len(first.per_item))})


def bootstrapped(first: Metric, second: Metric) -> None:
    estimate = differences([first], [second], {"": range(len(first.per_item))})[""]["bleu"]
    assert isinstance(estimate, Resampled)
    estimate.interval(0.95)
    bootstrap_p(estimate.value, estimate.samples)


@pytest.mark.parametrize(
    ("kind", "ours"), [("ar", randomised), ("bs", bootstrapped)], ids=["randomisation", "bootstrap"]
)
def test_a_paired_test_is_three_times_as_fast_as_sacrebleus(kind: str, ours: Callable[[Metric, Metric], None]) -> None:
    """Taking the n-gram statistics out of the texts is the same code on both sides and left out: on theirs, as the
    time that a test with one resample takes."""
    first, second, references = corpus(1000)
    flat = [[reference for (reference,) in references]]
    one, two = (Bleu().measure(answered(answers, references))[0] for answers in (first, second))
    ours(one, two)  # imports

    def theirs(resamples: int) -> None:
        PairedTest([("a", first), ("b", second)], {"BLEU": BLEU()}, flat, test_type=kind, n_samples=resamples)()

    ratios = [
        (seconds(lambda: theirs(RESAMPLES)) - seconds(lambda: theirs(1))) / seconds(lambda: ours(one, two))
        for _ in range(5)
    ]
    print(f"\npaired {kind}, 1,000 items: sacreBLEU takes {statistics.median(ratios):.1f} times as long")
    assert statistics.median(ratios) >= 3
