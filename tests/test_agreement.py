"""Agreement beyond chance equals scikit-learn's and the published figures of real raters, with honest intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from llmops.agreement import Weights, agreement, agreement_by_pair, cohen_kappa
from llmops.votes import votes_of

PANDALM = Path(__file__).parents[2] / "shared" / "data" / "pandalm" / "testset-v1.json"
STEPS = (1, 2, 3, 4, 5)

pairs = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(STEPS)), min_size=2, max_size=60)


@given(pairs, st.sampled_from(["none", "linear", "quadratic"]))
def test_kappa_is_scikit_learns(judged: list[tuple[int, int]], weights: Weights) -> None:
    first, second = zip(*judged, strict=True)
    ours = cohen_kappa(first, second, categories=STEPS, weights=weights)
    if len({*first, *second}) == 1:
        assert math.isnan(ours)
        return
    theirs = cohen_kappa_score(first, second, labels=STEPS, weights=None if weights == "none" else weights)
    assert ours == pytest.approx(theirs)


def test_kappa_of_cohens_own_kind_of_table() -> None:
    # 20 both yes, 5 and 10 apart, 15 both no: observed 0.70, by chance 0.5·0.6 + 0.5·0.4 = 0.50.
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    found = agreement(first, second, categories=("n", "y"))
    assert found.kappa.value == pytest.approx((0.70 - 0.50) / (1 - 0.50))
    assert (found.share.value, found.pairs) == (0.70, 50)


def test_the_published_kappas_of_pandalms_three_raters() -> None:
    if not PANDALM.is_file():
        pytest.skip(f"the PandaLM ratings are not at {PANDALM}")
    rows = json.loads(PANDALM.read_text())
    raters = [[row[f"annotator{number}"] for row in rows] for number in (1, 2, 3)]
    found = [cohen_kappa(one, other) for one, other in combinations(raters, 2)]
    # The PandaLM paper and README say 0.85, 0.88 and 0.86.
    assert [round(kappa, 2) for kappa in found] == [0.85, 0.88, 0.86]
    assert found == pytest.approx([0.852, 0.879, 0.862], abs=5e-4)


def test_each_two_raters_agree_on_what_both_rated() -> None:
    said = {
        "ann": {"p": "A", "q": "B", "r": "A", "s": "TIE"},
        "ben": {"s": "TIE", "q": "A", "p": "A"},
        "cleo": {"r": "B", "t": "A"},
        "dan": {"u": "A"},
    }
    cells = [(item, rater, label) for rater, labels in said.items() for item, label in labels.items()]
    votes = votes_of(*zip(*cells, strict=True), categories=("A", "B", "TIE"))
    found = agreement_by_pair(votes, weights="quadratic", clusters=dict.fromkeys("pqrstu", "one"), resamples=2)
    assert list(found) == [("ann", "ben"), ("ann", "cleo")]
    both = found["ann", "ben"]
    assert (both.pairs, both.kappa.clusters) == (3, 1)
    assert both.share.value == pytest.approx(2 / 3)
    kappa = cohen_kappa("ABT", "AAT", categories="ABT", weights="quadratic")
    assert both.kappa.value == pytest.approx(kappa)


def test_pandalms_kappas_pair_by_pair_with_clustered_intervals() -> None:
    if not PANDALM.is_file():
        pytest.skip(f"the PandaLM ratings are not at {PANDALM}")
    rows = json.loads(PANDALM.read_text())
    cells = [(row["idx"], rater, row[f"annotator{rater}"]) for row in rows for rater in (1, 2, 3)]
    votes = votes_of(*zip(*cells, strict=True), categories=(0, 1, 2))
    found = agreement_by_pair(votes, clusters={row["idx"]: (row["instruction"], row["input"]) for row in rows})
    assert {pair: round(both.kappa.value, 3) for pair, both in found.items()} == {
        (1, 2): 0.852,
        (1, 3): 0.879,
        (2, 3): 0.862,
    }
    for both in found.values():
        low, high = both.kappa.interval(0.95)
        assert 0.8 < low < both.kappa.value < high < 0.95


def judging(number: int, accuracy: float, seed: int) -> tuple[list[int], list[int]]:
    """A judge that says one of two things, and a second who agrees by luck or with this accuracy."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 2, number)
    guess = np.where(draw.random(number) < accuracy, truth, 1 - truth)
    return truth.tolist(), guess.tolist()


def test_nineteen_of_twenty_intervals_cover_the_true_kappa() -> None:
    # Two even classes and an error of 0.2 on either: 1 − 0.2/0.5.
    covered = 0
    for seed in range(200):
        first, second = judging(80, 0.8, seed)
        low, high = agreement(first, second, categories=(0, 1), resamples=2000).kappa.interval(0.95)
        covered += low <= 0.6 <= high
    # 190 expected; 200 draws of 0.95 are at least 181 with a chance of 0.998.
    assert covered >= 181


def test_pairs_of_one_prompt_count_as_one_observation() -> None:
    first, second = judging(60, 0.8, 1)
    clusters = [place for place in range(60) for _ in range(4)]
    fourfold = agreement(
        np.repeat(first, 4).tolist(), np.repeat(second, 4).tolist(), categories=(0, 1), clusters=clusters
    )
    once = agreement(first, second, categories=(0, 1))
    assert fourfold.kappa.value == pytest.approx(once.kappa.value)
    assert fourfold.kappa.interval(0.95) == pytest.approx(once.kappa.interval(0.95))
    assert fourfold.kappa.clusters == 60


@pytest.mark.parametrize("number", [4, 100])
def test_full_agreement_on_few_things_proves_little(number: int) -> None:
    said = [place % 2 for place in range(number)]
    kappa = agreement(said, said, categories=(0, 1)).kappa
    low, high = kappa.interval(0.95)
    assert (kappa.value, high) == (1.0, 1.0)
    # Clopper and Pearson leave 1 − 0.025^(1/n) of disagreements possible; chance alone disagrees on a half.
    assert low == pytest.approx(max(-1.0, 1 - 2 * (1 - 0.025 ** (1 / number))))


def test_two_who_always_say_the_same_one_thing_show_nothing() -> None:
    found = agreement([1] * 50, [1] * 50, categories=(0, 1))
    assert math.isnan(found.kappa.value)
    assert found.kappa.interval(0.95) == (-1.0, 1.0)
    assert found.share.value == 1.0


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [([], [], "no pairs"), ([1], [1, 2], "no pairs"), ([1, 9], [1, 2], r"\['9'\] are no categories")],
)
def test_what_is_no_judgement_is_a_bug_of_the_caller(first: Sequence[int], second: Sequence[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        agreement(first, second, categories=(1, 2))
