"""Human ratings of some answers of a report correct its judge's mean for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.errors import InputError
from llmops.eval.judge.correction import Corrected, correct, rubric_of
from llmops.eval.judge.ratings import Rated, Ratings
from llmops.eval.measured import Measured
from llmops.eval.metric import mean_of
from llmops.prediction_powered import corrected_mean
from llmops.rubric import Rubric, load_rubric
from tests.eval.judge.rubrics import LIKERT, PAIRWISE
from tests.eval.measurements import measured

NUMBER = 200
DRAW = np.random.default_rng(0)
TRUTH = DRAW.integers(1, 6, NUMBER)
JUDGE = np.clip(TRUTH + DRAW.integers(0, 3, NUMBER), 1, 5)  # kinder than people


def report(values: Any = (JUDGE - 1) / 4) -> Measured:
    return measured([mean_of("judge", "v1", np.asarray(values).tolist(), span=1.0)])


def ask(found: Measured, rubric: Rubric, *ratings: Rated) -> Corrected:
    return correct(found.items, found.metrics[0].per_item.tolist(), rubric, Ratings(ratings, ()), where="here")


def rated(place: int, answer: str = "answer of m") -> Rated:
    return Rated(f"question {place:06}", (answer,), (int(TRUTH[place]),))


def test_it_is_the_prediction_powered_mean_of_the_items_that_people_rated_and_of_the_rest() -> None:
    found = ask(report(), LIKERT, *(rated(place) for place in range(50)))
    people, judge = (TRUTH - 1) / 4, (JUDGE - 1) / 4
    assert found.estimate == corrected_mean(people[:50], judge[:50], judge[50:], span=1.0)
    assert found.alone.value == people[:50].mean()
    low, high = found.estimate.interval(0.95)
    assert low < people.mean() < high
    assert not low < judge.mean() < high
    assert found.estimate.se < found.alone.se


def test_ratings_of_other_answers_and_answers_without_a_verdict_count_for_nothing() -> None:
    values = (JUDGE - 1) / 4.0
    values[7] = np.nan
    other = rated(60, "of another model")
    found = ask(report(values), LIKERT, *(rated(place) for place in range(50)), other)
    assert (found.strange, found.without, found.estimate.labelled, found.estimate.unlabelled) == (1, 1, 49, 150)


def test_a_pair_may_be_rated_either_way_round() -> None:
    pairs = [("answer of m", "good"), ("good", "answer of m")]
    ratings = tuple(Rated(f"question {place:06}", pairs[place % 2], ("A",)) for place in range(10))
    found = ask(report(), PAIRWISE, *ratings)
    assert found.alone.value == 0.5  # the first place wins: five for the answer, five for the reference
    only = ask(report(), PAIRWISE, *ratings[::2])
    assert only.alone.value == 1.0


def test_too_few_ratings_of_this_report_are_refused() -> None:
    with pytest.raises(InputError, match="people rated 1 of the 200 answers"):
        ask(report(), LIKERT, rated(0), rated(1, "x"))


def test_the_rubric_must_be_the_one_it_was_judged_by(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: r\nversion: 1\nquestion: How good?\nscale: {kind: likert, labels: [bad, good]}\n")
    settings = {"scorers": [{"bleu": {}}, {"judge": {"name": "judge", "rubric": str(file)}}]}
    digest = load_rubric(file).digest
    made = replace(report(), judges={"judge": {"rubric": {"digest": digest}}}, suite={"settings": settings})
    assert rubric_of(made, "judge").name == "r"
    file.write_text(file.read_text().replace("How good", "How bad"))
    with pytest.raises(InputError, match="was changed since judge was judged by it"):
        rubric_of(made, "judge")
    with pytest.raises(InputError, match="no judge made bleu"):
        rubric_of(made, "bleu")
