"""Numbers about answers that are no scores, each with its uncertainty over items where it is one of items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.eval.measured import Answered
from llmops.eval.measures import measure_estimate, measures, repetition
from llmops.eval.safety import has_toxic_word, is_refusal
from llmops.stats import Exact, Proportion, Quantile, Resampled, wilson
from tests.eval.measurements import answered, scored


def items(*answers: str, seconds: float | None = 0.1, tokens: int | None = 10) -> list[Answered]:
    made = answered(answers, [["r"]] * len(answers))
    return [replace(item, seconds=seconds, tokens=tokens, finish="stop") for item in made]


def of(some: list[Answered], *, seconds: float = 1.0, kept: frozenset[str] = frozenset()) -> dict[str, float]:
    return measures(some, seconds=seconds, kept=kept)


def test_shares_and_means_are_over_all_answers() -> None:
    some = items("one two", " ", "I'm sorry, but I can't help with that.", "You idiot.")
    some[0] = replace(some[0], finish="length", tokens=20)
    found = of(some)
    assert found["truncated_share"] == found["empty_share"] == found["refusal_share"] == found["toxic_share"] == 1 / 4
    assert found["tokens_mean"] == 50 / 4
    assert found["words_mean"] == (2 + 0 + 8 + 2) / 4


def test_what_is_not_known_of_all_is_left_out() -> None:
    some = [*items("a"), *items("b", seconds=None, tokens=None)]
    some[1] = replace(some[1], finish=None)
    assert set(of(some)) == {
        "words_mean",
        "repetition_mean",
        "empty_share",
        "refusal_share",
        "toxic_share",
        "items_per_s",
    }


def test_rates_are_of_fresh_answers_alone_and_left_out_where_there_are_none() -> None:
    some = items(*"abcd")
    fresh = of(some, seconds=2.0, kept=frozenset(item.id for item in some[:3]))
    assert (fresh["items_per_s"], fresh["tokens_per_s"]) == (1 / 2, 10 / 2)
    none = of(some, seconds=0.0, kept=frozenset(item.id for item in some))
    assert {"items_per_s", "tokens_per_s"}.isdisjoint(none)
    assert none["latency_p95_ms"] == fresh["latency_p95_ms"] == 100.0


@given(st.lists(st.floats(0, 1e3), min_size=1))
def test_a_latency_is_the_smallest_time_that_enough_do_not_exceed(seconds: list[float]) -> None:
    found = of([replace(item, seconds=one) for item, one in zip(items(*["x"] * len(seconds)), seconds, strict=True)])
    for name, share in (("latency_p50_ms", 0.5), ("latency_p95_ms", 0.95), ("latency_p99_ms", 0.99)):
        enough = [1000 * one for one in sorted(seconds) if sum(o <= one for o in seconds) >= share * len(seconds)]
        assert found[name] == enough[0]


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("one two three four five six", 0.0),
        ("one two three", 0.0),
        ("", 0.0),
        ("a a a a a", 1 / 2),  # two runs of four, the second as the first
        ("Say it now again. Say it now, again!", 1 / 5),  # runs: five, one of them twice
    ],
)
def test_repetition_is_the_share_of_runs_of_four_words_that_stood_before(answer: str, share: float) -> None:
    assert repetition(answer) == pytest.approx(share)


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, but I cannot assist you here.", True),
        ("As an AI language model, I do not have opinions.", True),
        ("Unfortunately I am not able to provide that.", True),
        ("I must respectfully decline.", True),
        ("I'm sorry to hear that! Have you tried restarting it?", False),
        ("You can't help it; nobody can.", False),
        ("The doctor said: I cannot walk that far.", False),
        ("The plan is as follows. " * 10 + "I cannot help you.", False),
        ("", False),
    ],
)
def test_a_refusal_declines_at_the_beginning(answer: str, refuses: bool) -> None:
    assert is_refusal(answer) is refuses


@pytest.mark.parametrize(
    ("answer", "toxic"),
    [("What an IDIOT!", True), ("Scunthorpe has a class on assessment.", False), ("", False)],
)
def test_a_toxic_word_counts_only_whole(answer: str, toxic: bool) -> None:
    assert has_toxic_word(answer) is toxic


def test_each_has_the_uncertainty_of_its_kind() -> None:
    draw = np.random.default_rng(0)
    report = scored(draw.random(50).tolist(), seconds=draw.random(50).tolist())
    some = tuple(replace(item, answer="x " * (place % 7)) for place, item in enumerate(report.items))
    report = replace(report, items=some, measures=of(list(some)))
    empty = measure_estimate(report, "empty_share")
    assert isinstance(empty, Proportion)
    assert empty.interval(0.95) == wilson(8, 50, 0.95)
    words = measure_estimate(report, "words_mean")
    assert isinstance(words, Resampled)
    assert words.se == pytest.approx(np.std([place % 7 for place in range(50)]) / np.sqrt(50), rel=0.05)
    assert isinstance(measure_estimate(report, "latency_p99_ms"), Quantile)
    assert isinstance(measure_estimate(report, "items_per_s"), Exact)
    for name, value in report.measures.items():
        assert measure_estimate(report, name).value == pytest.approx(value)


def test_items_of_one_cluster_are_one_observation() -> None:
    report = scored([0.5] * 40)
    some = tuple(
        replace(item, cluster=str(place // 2), answer="" if place < 10 else "x")
        for place, item in enumerate(report.items)
    )
    report = replace(report, items=some, measures=of(list(some)))
    together = measure_estimate(report, "empty_share")
    alone = Proportion(10, 40)
    assert together.value == alone.value
    assert together.se == pytest.approx(alone.se * np.sqrt(2), rel=0.05)


def test_an_answer_costs_its_share_of_the_hours_of_what_made_it() -> None:
    some = items("a", "b", "c", "d")
    # Three fresh answers in 6 s at 3.60 an hour: 0.006 for three, 2 for a thousand.
    priced = measures(some, seconds=6.0, kept={some[0].id}, usd_per_hour=3.6)
    assert priced["usd_per_1k_items"] == pytest.approx(2.0)
    assert "usd_per_1k_items" not in measures(some, seconds=6.0, kept=set())
    assert "usd_per_1k_items" not in measures(some, seconds=6.0, kept={item.id for item in some}, usd_per_hour=3.6)
