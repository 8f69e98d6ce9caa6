"""A report measures each rater with intervals, and what could not be measured is None, never nought."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.rater_report import rater_reports
from llmops.stats import Proportion, wilson
from llmops.votes import votes_of
from tests.test_agreement import PANDALM

maybe = st.none() | st.booleans()
rows = st.lists(
    st.tuples(
        st.integers(0, 3),  # item
        st.integers(0, 3),  # rater
        st.sampled_from("ABT"),
        st.none() | st.floats(0.5, 600),
        maybe,
        maybe,
        st.none() | st.sampled_from("ABT"),
        st.none() | st.sampled_from("ABT"),
    ),
    min_size=1,
    max_size=16,
    unique_by=lambda row: row[:2],
)


def counted(share: Proportion | None) -> tuple[float, int]:
    return (share.successes, share.clusters) if share else (0, 0)


@settings(max_examples=60)
@given(rows)
def test_each_figure_is_what_a_count_by_hand_gives(rated: list[tuple[Any, ...]]) -> None:
    items, raters, labels, seconds, first, longer, gold, before = map(list, zip(*rated, strict=True))
    votes = votes_of(items, raters, labels, categories="ABT")
    found = rater_reports(
        votes, seconds=seconds, first_preferred=first, longer_preferred=longer, gold=gold, before=before
    )
    assert [report.rater for report in found] == list(dict.fromkeys(raters))
    for report in found:
        own = [row for row in rated if row[1] == report.rater]

        def of(column: int, hit: Callable[[tuple[Any, ...]], bool], rows: list[tuple[Any, ...]]) -> tuple[int, int]:
            known = [row for row in rows if row[column] is not None]
            return sum(map(hit, known)), len(known)

        times = [row[3] for row in own if row[3] is not None]
        assert report.ratings == len(own)
        assert report.seconds == pytest.approx(median(times) if times else None)
        assert counted(report.shown_first) == of(4, lambda row: row[4], own)
        assert counted(report.longer) == of(5, lambda row: row[5], own)
        rest = [row for row in rated if row[1] != report.rater]
        assert counted(report.others_longer) == of(5, lambda row: row[5], rest)
        assert counted(report.gold) == of(6, lambda row: row[6] == row[2], own)
        assert counted(report.consistency) == of(7, lambda row: row[7] == row[2], own)
        alike, compared = 0, 0
        for row in own:
            said = [other[2] for other in rest if other[0] == row[0]]
            most = sorted(((said.count(label), label) for label in set(said)), reverse=True)
            if most and (len(most) == 1 or most[0][0] > most[1][0]):
                compared += 1
                alike += most[0][1] == row[2]
        assert counted(report.agreement) == (alike, compared)


def test_a_check_that_could_not_run_is_never_held_against_a_rater() -> None:
    votes = votes_of(["p", "q"], ["ann", "ann"], ["A", "B"], categories=("A", "B"))
    for report in (rater_reports(votes)[0], rater_reports(votes, gold=[None, None], seconds=[None, None])[0]):
        assert report.ratings == 2
        assert (report.gold, report.agreement, report.seconds, report.consistency) == (None, None, None, None)
        assert (report.shown_first, report.longer, report.others_longer) == (None, None, None)
        assert report.leans_to_a_side is None


def test_gold_has_wilsons_interval_over_the_checks_that_ran() -> None:
    votes = votes_of(range(5), ["ann"] * 5, [1, 1, 0, 1, 0], categories=(0, 1))
    gold = rater_reports(votes, gold=[1, 1, 1, None, None])[0].gold
    assert gold is not None
    assert (gold.successes, gold.clusters) == (2, 3)
    assert gold.interval(0.95) == wilson(2, 3, 0.95)


def test_a_leaning_to_one_side_is_told_from_luck() -> None:
    draw = np.random.default_rng(0)
    items = list(range(200)) * 2
    raters = ["fair"] * 200 + ["left"] * 200
    first = (draw.random(400) < np.repeat([0.5, 0.8], 200)).tolist()
    votes = votes_of(items, raters, first, categories=(False, True))
    leaning = {report.rater: report.leans_to_a_side for report in rater_reports(votes, first_preferred=first)}
    assert leaning == {"fair": False, "left": True}


def test_a_database_may_say_one_for_yes() -> None:
    votes = votes_of([1, 2, 3], ["ann"] * 3, [0, 1, 0], categories=(0, 1))
    said: list[Any] = [1, np.True_, 0]
    (report,) = rater_reports(votes, first_preferred=said)
    assert counted(report.shown_first) == (2, 3)


def test_a_column_of_another_length_is_a_bug_of_the_caller() -> None:
    votes = votes_of([1], ["ann"], [0], categories=(0, 1))
    with pytest.raises(ValueError, match="2 gold of 1 ratings"):
        rater_reports(votes, gold=[0, 1])


def test_pandalms_raters_on_answers_of_which_six_are_no_text() -> None:
    if not PANDALM.is_file():
        pytest.skip(f"the PandaLM ratings are not at {PANDALM}")
    data = json.loads(PANDALM.read_text())
    answers = [row[f"response{side}"] for row in data for side in (1, 2)]
    assert sum(isinstance(answer, bool) for answer in answers) == 6
    cells = [(row, rater, row[f"annotator{rater}"]) for row in data for rater in (1, 2, 3)]

    def longer(row: dict[str, Any], said: int) -> bool | None:
        one, two = row["response1"], row["response2"]
        if said == 0 or not (isinstance(one, str) and isinstance(two, str)) or len(one) == len(two):
            return None
        return (len(one) > len(two)) == (said == 1)

    votes = votes_of(
        [row["idx"] for row, _, _ in cells],
        [rater for _, rater, _ in cells],
        [s for _, _, s in cells],
        categories=(0, 1, 2),
    )
    found = rater_reports(
        votes,
        first_preferred=[None if said == 0 else said == 1 for _, _, said in cells],
        longer_preferred=[longer(row, said) for row, _, said in cells],
    )
    untold = [row for row in data if isinstance(row["response1"], bool) or isinstance(row["response2"], bool)]
    for report in found:
        assert report.ratings == 999
        assert report.longer is not None
        assert report.longer.clusters <= 999 - len(untold)
        assert report.agreement is not None
        # With three raters the others have a majority where both say one thing, which they mostly do.
        assert 0.9 < report.agreement.value < 1
        assert report.gold is None
        assert report.leans_to_a_side is False


@pytest.mark.benchmark
def test_a_million_ratings_take_seconds() -> None:
    n = 1_000_000
    draw = np.random.default_rng(0)
    items = np.repeat(np.arange(333_334), 3)[:n].tolist()
    votes = votes_of(items, (np.arange(n) % 99).tolist(), draw.integers(0, 3, n).tolist(), categories=(0, 1, 2))
    first = (draw.random(n) < 0.5).tolist()
    start = time.perf_counter()
    found = rater_reports(votes, seconds=draw.random(n).tolist(), first_preferred=first, longer_preferred=first)
    assert sum(report.ratings for report in found) == n
    assert time.perf_counter() - start < 30
