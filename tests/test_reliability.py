"""Agreement of many raters equals three other implementations and published figures, with honest intervals."""

from __future__ import annotations

import json
import math
import time
from itertools import permutations
from random import Random

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from llmops.reliability import Level, Reliability, reliability
from llmops.votes import Votes, votes_of
from tests.test_agreement import PANDALM

MISSING = -1
grids = st.integers(2, 4).flatmap(
    lambda raters: st.lists(
        st.lists(st.integers(MISSING, 3), min_size=raters, max_size=raters), min_size=1, max_size=12
    )
)
"""Items × raters, each a category of 0 to 3 or missing."""


def votes_in(grid: list[list[int]], categories: tuple[int, ...] = (0, 1, 2, 3)) -> Votes | None:
    cells = [(item, rater, said) for item, row in enumerate(grid) for rater, said in enumerate(row) if said != MISSING]
    return votes_of(*zip(*cells, strict=True), categories=categories) if cells else None


def reliability_in(grid: list[list[int]], level: Level = "nominal") -> Reliability | None:
    votes = votes_in(grid)
    return None if votes is None else reliability(votes, level=level, resamples=2)


def known(found: Reliability | None) -> Reliability:
    assert found is not None
    return found


@settings(max_examples=60)
@given(grids, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_that_of_the_krippendorff_package(grid: list[list[int]], level: Level) -> None:
    found = reliability_in(grid, level)
    paired = [row for row in grid if sum(said != MISSING for said in row) >= 2]
    if not paired:
        assert found is None
        return
    alpha = known(found).alpha.value
    if len({said for row in paired for said in row} - {MISSING}) == 1:
        assert math.isnan(alpha)
        return
    table = np.where(np.array(paired) == MISSING, np.nan, np.array(paired, dtype=float)).T
    theirs = krippendorff.alpha(table, level_of_measurement=level, value_domain=[0.0, 1.0, 2.0, 3.0])
    assert alpha == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=12))
def test_fleiss_is_that_of_statsmodels(grid: list[list[int]]) -> None:
    found = known(reliability_in(grid)).fleiss.value
    if len({said for row in grid for said in row}) == 1:
        assert math.isnan(found)
        return
    assert found == pytest.approx(fleiss_kappa(aggregate_raters(np.array(grid))[0]), abs=1e-12)


def test_fleiss_with_unequal_numbers_of_ratings_counts_each_item_once() -> None:
    # Of three raters who say a, a and b one pair of three agrees; of the other item both say b.
    found = known(reliability_in([[0, 0, 1], [MISSING, 1, 1]]))
    share, said = (1 / 3 + 1) / 2, np.array([(2 / 3 + 0) / 2, (1 / 3 + 1) / 2])
    chance = float((said**2).sum())
    assert found.share.value == pytest.approx(share)
    assert found.fleiss.value == pytest.approx((share - chance) / (1 - chance))
    assert (found.unanimous.value, found.items, found.ratings) == (0.5, 2, 5)


def test_krippendorffs_own_example() -> None:
    # "Computing Krippendorff's Alpha-Reliability" (2011), C and D: four observers, twelve units, values missing.
    a, b, c, d = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    rows = [line.split() for line in (a, b, c, d)]
    cells = [(u, r, int(row[u])) for r, row in enumerate(rows) for u in range(12) if row[u] != "."]
    votes = votes_of(*zip(*cells, strict=True), categories=(1, 2, 3, 4, 5))
    found = {level: known(reliability(votes, level=level)) for level in ("nominal", "ordinal", "interval")}
    assert [round(one.alpha.value, 3) for one in found.values()] == [0.743, 0.815, 0.849]
    assert (found["nominal"].items, found["nominal"].alone) == (11, 1)


@settings(max_examples=40)
@given(grids, st.randoms(use_true_random=False))
def test_who_is_called_what_and_in_which_order_changes_nothing(grid: list[list[int]], random: Random) -> None:
    shuffled = [list(row) for row in grid]
    random.shuffle(shuffled)
    order = list(range(len(grid[0])))
    random.shuffle(order)
    shuffled = [[row[place] for place in order] for row in shuffled]
    renamed = [[said if said == MISSING else (2, 0, 3, 1)[said] for said in row] for row in shuffled]
    one, other = reliability_in(grid), reliability_in(renamed)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        for name in ("share", "unanimous", "fleiss", "alpha"):
            assert getattr(one, name).value == pytest.approx(getattr(other, name).value, nan_ok=True, abs=1e-12)


@settings(max_examples=60)
@given(grids, st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_one_where_all_agree_and_only_there(grid: list[list[int]], level: Level) -> None:
    found = reliability_in(grid, level)
    if found is not None and not math.isnan(found.alpha.value):
        agree = all(len(set(row) - {MISSING}) <= 1 for row in grid)
        assert (abs(found.alpha.value - 1) < 1e-12) is agree
        assert (found.unanimous.value == 1) is agree


def test_ordinal_and_interval_see_how_far_apart_two_are() -> None:
    near, far = [[0, 1], [2, 3], [0, 0], [3, 3]], [[0, 3], [2, 1], [0, 0], [3, 3]]
    for level in ("ordinal", "interval"):
        assert known(reliability_in(near, level)).alpha.value > known(reliability_in(far, level)).alpha.value


def test_the_agreement_of_pandalms_three_raters() -> None:
    if not PANDALM.is_file():
        pytest.skip(f"the PandaLM ratings are not at {PANDALM}")
    rows = json.loads(PANDALM.read_text())
    cells = [(row["idx"], rater, row[f"annotator{rater}"]) for row in rows for rater in (1, 2, 3)]
    votes = votes_of(*zip(*cells, strict=True), categories=(0, 1, 2))
    found = known(reliability(votes, clusters={row["idx"]: (row["instruction"], row["input"]) for row in rows}))
    assert (round(found.fleiss.value, 3), round(found.alpha.value, 3)) == (0.864, 0.864)
    low, high = found.alpha.interval(0.95)
    assert 0.80 < low < found.alpha.value < high < 0.92
    assert found.alpha.clusters == len({(row["instruction"], row["input"]) for row in rows})


def grid_of(items: int, seed: int, accuracy: float = 0.8, raters: int = 3) -> NDArray[np.int64]:
    """Two even classes, each rater right as often as said, errors independent."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 2, (items, 1))
    return np.where(draw.random((items, raters)) < accuracy, truth, 1 - truth)


def test_nineteen_of_twenty_intervals_cover_the_truth() -> None:
    # Two raters of accuracy 0.8 agree with 0.8² + 0.2² = 0.68, by chance with 0.5: kappa and alpha are 0.36.
    covered = {"fleiss": 0, "alpha": 0}
    for seed in range(100):
        votes = votes_in(grid_of(80, seed).tolist(), (0, 1))
        assert votes is not None
        found = known(reliability(votes, resamples=1000))
        for name in covered:
            low, high = getattr(found, name).interval(0.95)
            covered[name] += low <= 0.36 <= high
    # 95 expected; 100 draws of 0.95 are at least 89 with a chance of 0.996.
    assert min(covered.values()) >= 89


def test_items_of_one_prompt_count_as_one_observation() -> None:
    grid = grid_of(40, 1)
    once, fourfold = (votes_in(np.repeat(grid, times, axis=0).tolist(), (0, 1)) for times in (1, 4))
    assert once is not None
    assert fourfold is not None
    alone = known(reliability(once))
    together = known(reliability(fourfold, clusters={item: item // 4 for item in range(160)}))
    assert together.fleiss.clusters == 40
    assert together.fleiss.interval(0.95) == pytest.approx(alone.fleiss.interval(0.95))


@pytest.mark.parametrize("number", [4, 100])
def test_full_agreement_on_few_items_proves_little(number: int) -> None:
    found = known(reliability_in([[place % 2] * 2 for place in range(number)]))
    low, high = found.fleiss.interval(0.95)
    assert (found.fleiss.value, high) == (1.0, 1.0)
    # Clopper and Pearson leave 1 − 0.025^(1/n) of disagreements possible; chance alone disagrees on a half.
    assert low == pytest.approx(max(-1.0, 1 - 2 * (1 - 0.025 ** (1 / number))))


def test_one_category_alone_shows_nothing_but_the_share() -> None:
    found = known(reliability_in([[1, 1], [1, 1]]))
    assert (found.share.value, found.alpha.interval(0.95)) == (1.0, (-1.0, 1.0))
    assert math.isnan(found.alpha.value)
    assert math.isnan(found.fleiss.value)


def test_words_have_no_differences() -> None:
    votes = votes_of([1, 1], ["ann", "ben"], ["bad", "good"], categories=("bad", "good"))
    with pytest.raises(ValueError, match=r"\['bad', 'good'\] are no numbers"):
        reliability(votes, level="interval")


def test_every_order_of_categories_but_the_reverse_is_another_scale() -> None:
    cells = [(0, 1, 0), (0, 2, 1), (1, 1, 1), (1, 2, 2), (2, 1, 0), (2, 2, 0), (3, 1, 2), (3, 2, 0)]
    found = {
        order: known(
            reliability(votes_of(*zip(*cells, strict=True), categories=order), level="ordinal", resamples=2)
        ).alpha.value
        for order in permutations((0, 1, 2))
    }
    assert found[0, 1, 2] == pytest.approx(found[2, 1, 0])
    assert abs(found[0, 1, 2] - found[1, 0, 2]) > 0.01


@pytest.mark.benchmark
def test_a_million_ratings_take_seconds() -> None:
    draw = np.random.default_rng(0)
    items = np.repeat(np.arange(333_334), 3)[:1_000_000]
    said = draw.integers(0, 7, len(items))
    raters = (np.arange(len(items)) + draw.integers(0, 1000, len(items)) * 3).tolist()
    start = time.perf_counter()
    votes = votes_of(items.tolist(), raters, said.tolist(), categories=tuple(range(7)))
    found = known(reliability(votes, level="ordinal"))
    assert abs(found.alpha.value) < 0.01
    assert time.perf_counter() - start < 60
