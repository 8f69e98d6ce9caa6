"""A consensus says what most say, or what the more reliable say, and where it cannot tell."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from crowdkit.aggregation import DawidSkene as Theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.consensus import consensus, dawid_skene, majority, majority_of_others
from llmops.stats import Values
from llmops.votes import Votes, votes_of


def crowd(
    items: int, accuracies: list[float], seed: int, categories: int = 3, rated: float = 0.6
) -> tuple[Votes, list[int]]:
    """Raters of such accuracies, errors spread evenly, each rating such a share; and the truth of the votes' items."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, categories, items)
    cells = []
    for item in range(items):
        for rater, accuracy in enumerate(accuracies):
            if draw.random() < rated:
                wrong = (truth[item] + draw.integers(1, categories)) % categories
                cells.append((item, rater, int(truth[item] if draw.random() < accuracy else wrong)))
    votes = votes_of(*zip(*cells, strict=True), categories=tuple(range(categories)))
    return votes, [int(truth[item]) for item in votes.item_names]  # type: ignore[call-overload]


def right(found: list[object], truth: list[int]) -> float:
    return float(np.mean([one == other for one, other in zip(found, truth, strict=True)]))


def test_the_majority_and_ties_of_it() -> None:
    votes = votes_of(list("pppqqr"), list("abcaba"), list("xxyxyz"), categories=tuple("xyz"))
    found = majority(votes)
    assert found.labels == ["x", None, "z"]
    assert found.undecided == ["q"]
    assert found.confidence.tolist() == pytest.approx([2 / 3, 1 / 2, 1])


def test_the_majority_of_the_others_leaves_out_who_is_judged() -> None:
    votes = votes_of(list("pppqqr"), list("abcaba"), list("xxyxyz"), categories=tuple("xyz"))
    # p: a sees x and y, b the same, c sees x twice; q: each sees the other; r: nobody else.
    assert majority_of_others(votes).tolist() == [-1, -1, 0, 1, 0, -1]


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # of pandas, inside crowd-kit
@pytest.mark.parametrize("seed", [0, 2])
def test_without_smoothing_it_is_crowd_kits_step_by_step(seed: int) -> None:
    votes, _ = crowd(120, [0.9, 0.8, 0.7, 0.6, 0.5], seed)
    rows = pd.DataFrame({"task": votes.items, "worker": votes.raters, "label": votes.labels})
    theirs = Theirs(n_iter=12, tol=-1.0).fit(rows)
    probability = theirs.probas_.loc[range(len(votes.item_names)), [0, 1, 2]].to_numpy()
    found = dawid_skene(votes, smoothing=0, tolerance=-1.0, iterations=12)
    assert (len(found.objective), found.converged) == (12, False)
    assert found.posterior == pytest.approx(probability, abs=1e-7)
    # Their matrices are those of the next step, with a row for each label said and a column for each truth.
    after = dawid_skene(votes, smoothing=0, tolerance=-1.0, iterations=13)
    for rater in range(len(votes.rater_names)):
        matrix = theirs.errors_.loc[[(rater, said) for said in (0, 1, 2)], [0, 1, 2]].to_numpy()
        assert after.confusion[rater] == pytest.approx(matrix.T, abs=1e-7)


def test_it_finds_the_raters_and_beats_the_majority_where_they_differ() -> None:
    votes, truth = crowd(1500, [0.95, 0.9, 0.85, 0.4, 0.4, 0.4, 0.4], 1, rated=1)
    found = dawid_skene(votes)
    assert right(found.labels, truth) > right(majority(votes).labels, truth) + 0.03
    named = dict(zip(votes.rater_names, found.accuracy.tolist(), strict=True))
    # A share of 1500 has a standard error of 0.013 at most.
    assert [named[rater] for rater in range(7)] == pytest.approx([0.95, 0.9, 0.85, 0.4, 0.4, 0.4, 0.4], abs=0.05)


def test_the_confusion_matrix_is_what_the_rater_does() -> None:
    # One of three raters calls every 2 a 1, and is right else.
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 3, 600)
    cells = [(item, "good" + str(n), int(true)) for item, true in enumerate(truth) for n in (1, 2)]
    cells += [(item, "blind", 1 if true == 2 else int(true)) for item, true in enumerate(truth)]
    votes = votes_of(*zip(*cells, strict=True), categories=(0, 1, 2))
    matrix = dawid_skene(votes).confusion[votes.rater_names.index("blind")]
    assert matrix == pytest.approx(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]]), abs=0.01)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 1.0]))
def test_the_objective_never_falls_and_all_are_distributions(seed: int, smoothing: float) -> None:
    votes, _ = crowd(12, [0.9, 0.6, 0.3], seed)
    found = dawid_skene(votes, smoothing=smoothing)
    assert all(later >= earlier - 1e-7 for earlier, later in zip(found.objective, found.objective[1:], strict=False))
    for table in (found.posterior, found.confusion, found.prior):
        assert np.asarray(table).sum(-1) == pytest.approx(1)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_names_and_order_of_raters_items_and_labels_change_nothing(seed: int) -> None:
    votes, _ = crowd(20, [0.9, 0.8, 0.6], seed)
    draw = np.random.default_rng(seed)
    order, label = draw.permutation(len(votes)), draw.permutation(3)
    other = votes_of(
        votes.items[order].tolist(),
        (9 - votes.raters[order]).tolist(),
        label[votes.labels[order]].tolist(),
        categories=(0, 1, 2),
    )
    one, two = dawid_skene(votes), dawid_skene(other)
    found: Values = np.zeros_like(one.posterior)
    found[np.array(other.item_names)] = two.posterior[:, label]
    assert found == pytest.approx(one.posterior, abs=1e-4)


def test_few_ratings_of_each_leave_the_majority_in_charge() -> None:
    small, _ = crowd(10, [0.9, 0.8, 0.7], 0)
    large, _ = crowd(200, [0.9, 0.8, 0.7], 0)
    assert (consensus(small).method, consensus(large).method) == ("majority", "Dawid-Skene")


def test_one_rater_alone_is_believed() -> None:
    votes = votes_of(["p", "q"], ["ann", "ann"], [0, 1], categories=(0, 1))
    assert dawid_skene(votes).labels == [0, 1]


@pytest.mark.benchmark
def test_a_million_ratings_take_a_minute() -> None:
    draw = np.random.default_rng(0)
    items = np.repeat(np.arange(333_334), 3)[:1_000_000]
    truth = draw.integers(0, 3, 333_334)[items]
    said = np.where(draw.random(len(items)) < 0.8, truth, draw.integers(0, 3, len(items)))
    raters = np.arange(len(items)) % 999
    votes = votes_of(items.tolist(), raters.tolist(), said.tolist(), categories=(0, 1, 2))
    start = time.perf_counter()
    found = dawid_skene(votes)
    assert found.converged
    assert time.perf_counter() - start < 60
