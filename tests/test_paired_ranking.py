"""A ranking fits Bradley and Terry's and Davidson's models, with intervals that hold, and says what is still open."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations
from random import Random

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from llmops.paired_ranking import Ranking, ranking
from tests.test_agreement import PANDALM

Rating = tuple[int, int, int]
"""Shown first, shown second, outcome."""

ratings_of_four = st.lists(
    st.tuples(st.sampled_from(list(permutations(range(4), 2))), st.sampled_from([-1, 0, 1])).map(
        lambda drawn: (*drawn[0], drawn[1])
    ),
    min_size=1,
    max_size=40,
)


def ranked(ratings: Sequence[Rating], *, shown_first: bool = False, resamples: int = 2) -> Ranking:
    first, second, outcome = zip(*ratings, strict=True)
    return ranking(first, second, outcome, shown_first=shown_first, resamples=resamples)


def played(strengths: Sequence[float], number: int, seed: int, *, nu: float = 0.0, beta: float = 0.0) -> list[Rating]:
    """Each pair in both orders so often, results drawn from Davidson's model."""
    draw = np.random.default_rng(seed)
    rows = []
    for one, two in permutations(range(len(strengths)), 2):
        d = strengths[one] - strengths[two] + beta
        weights = np.array([math.exp(d / 2), nu, math.exp(-d / 2)])
        drawn = draw.choice([1, 0, -1], size=number, p=weights / weights.sum())
        rows += [(one, two, int(outcome)) for outcome in drawn]
    return rows


def slow(ratings: Sequence[Rating], models: int, *, sides: bool) -> tuple[list[float], float, float]:
    """Strengths, ν and β by a general optimiser of the likelihood, written out as in the paper."""
    results = Counter(ratings).items()

    def loss(x: np.ndarray) -> float:
        theta, log_nu, beta = [*x[: models - 1], 0.0], x[models - 1], x[models] if sides else 0.0
        total = 0.0
        for (one, two, outcome), times in results:
            strong, weak, tie = (
                math.exp(theta[one] + beta),
                math.exp(theta[two]),
                math.exp(log_nu) * math.sqrt(math.exp(theta[one] + beta) * math.exp(theta[two])),
            )
            total -= times * math.log({1: strong, -1: weak, 0: tie}[outcome] / (strong + weak + tie))
        return total

    found = minimize(loss, np.zeros(models + sides), method="BFGS", options={"gtol": 1e-7})
    theta = np.array([*found.x[: models - 1], 0.0])
    return (theta - theta.mean()).tolist(), math.exp(found.x[models - 1]), float(found.x[models]) if sides else 0.0


def strengths_of(found: Ranking, models: int) -> list[float]:
    return [found.of(model).strength.value for model in range(models)]


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_it_is_choixs_bradley_terry(seed: int) -> None:
    ratings = played([1.0, 0.3, 0.0, -0.4, -0.9], 15, seed)
    won = [(one, two) if outcome > 0 else (two, one) for one, two, outcome in ratings]
    found = ranked(ratings)
    assert not found.held
    assert found.tie is None
    theirs = choix.opt_pairwise(5, won, tol=1e-12)
    assert strengths_of(found, 5) == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-5)
    assert strengths_of(found, 5) == pytest.approx(choix.ilsr_pairwise(5, won, tol=1e-12).tolist(), abs=1e-6)


@pytest.mark.parametrize("sides", [False, True])
def test_with_ties_and_sides_it_is_the_maximum_that_a_slow_optimiser_finds(sides: bool) -> None:
    ratings = played([0.8, 0.0, -0.8], 12, 4, nu=0.8, beta=0.5)
    found = ranked(ratings, shown_first=sides)
    theta, nu, beta = slow(ratings, 3, sides=sides)
    assert strengths_of(found, 3) == pytest.approx(theta, abs=1e-4)
    assert found.tie is not None
    assert found.tie.value == pytest.approx(nu / (2 + nu), abs=1e-4)
    if sides:
        assert found.shown_first is not None
        assert found.shown_first.value == pytest.approx(1 / (1 + math.exp(-beta)), abs=1e-4)
    else:
        assert found.shown_first is None


def test_two_models_have_the_closed_form() -> None:
    # Of 30 wins, 10 ties and 20 losses: θ₁ − θ₂ = ln(30/20), ν = 10/√(30·20).
    found = ranked([(0, 1, 1)] * 30 + [(0, 1, 0)] * 10 + [(1, 0, 1)] * 20)
    nu = 10 / math.sqrt(600)
    difference = found.difference(0, 1)
    assert difference is not None
    assert difference.value == pytest.approx(math.log(1.5))
    assert found.tie is not None
    assert found.tie.value == pytest.approx(nu / (2 + nu))
    best = found.standings[0]
    assert (best.model, best.wins, best.ties, best.losses) == (0, 30, 10, 20)


def test_being_shown_first_is_told_from_being_better() -> None:
    # Model 0 is always shown first against its equal 1, both are rated against 2 from either side.
    side = [(0, 1, 1)] * 60 + [(0, 1, -1)] * 30
    side += [(one, two, outcome) for one, two in ((0, 2), (1, 2), (2, 0), (2, 1)) for outcome in [1] * 60 + [-1] * 30]
    plain, taken_out = ranked(side), ranked(side, shown_first=True)
    assert plain.of(0).strength.value > plain.of(1).strength.value + 0.2
    assert taken_out.of(0).strength.value == pytest.approx(taken_out.of(1).strength.value, abs=1e-8)
    assert taken_out.shown_first is not None
    assert taken_out.shown_first.value == pytest.approx(2 / 3)


@settings(max_examples=40)
@given(ratings_of_four, st.booleans(), st.permutations(range(4)), st.randoms(use_true_random=False))
def test_any_ratings_give_finite_strengths_whatever_the_names_and_order(
    ratings: list[Rating], shown_first: bool, names: list[int], random: Random
) -> None:
    other = [(names[one], names[two], outcome) for one, two, outcome in ratings]
    random.shuffle(other)
    one, two = ranked(ratings, shown_first=shown_first), ranked(other, shown_first=shown_first)
    assert one.held is two.held
    assert {frozenset(names[model] for model in group) for group in one.groups} == set(map(frozenset, two.groups))  # type: ignore[call-overload]
    for standing in one.standings:
        strength = two.of(names[standing.model]).strength.value  # type: ignore[call-overload]
        assert math.isfinite(strength)
        assert strength == pytest.approx(standing.strength.value, abs=1e-6)
        assert standing.ranks[0] <= standing.rank <= standing.ranks[1]


@settings(max_examples=60)
@given(ratings_of_four)
def test_strengths_are_held_exactly_where_fords_condition_fails(ratings: list[Rating]) -> None:
    # Ford 1957: without ties a finite maximum exists where, however compared models are parted in two, some of each
    # part beat some of the other: from each model that meets another, chains of wins lead back.
    decided = [(one, two) if outcome > 0 else (two, one) for one, two, outcome in ratings if outcome]
    if not decided:
        return
    reached = {model: {model} for pair in decided for model in pair}
    for _ in range(4):
        for winner, loser in decided:
            for seen in reached.values():
                if winner in seen:
                    seen.add(loser)
    finite = all(winner in reached[loser] for winner, loser in decided)
    found = ranked([(winner, loser, 1) for winner, loser in decided])
    assert found.held is not finite


@settings(max_examples=25)
@given(ratings_of_four)
def test_to_turn_all_results_round_turns_the_ranking_round(ratings: list[Rating]) -> None:
    one, other = ranked(ratings), ranked([(a, b, -outcome) for a, b, outcome in ratings])
    for standing in one.standings:
        assert other.of(standing.model).strength.value == pytest.approx(-standing.strength.value, abs=1e-6)


def test_which_answer_is_called_first_says_nothing_unless_asked() -> None:
    ratings = played([0.5, 0.0, -0.5], 10, 0, nu=0.5)
    other = [(b, a, -outcome) for a, b, outcome in ratings]
    assert strengths_of(ranked(other), 3) == pytest.approx(strengths_of(ranked(ratings), 3))


def test_models_that_nothing_links_are_ranked_apart() -> None:
    ratings = [*played([0.5, 0.0, -0.5], 30, 0), (7, 8, 1), (7, 8, 1), (8, 7, 1)]
    found = ranked(ratings, resamples=1000)
    assert found.groups == ((0, 1, 2), (7, 8))
    assert found.difference(0, 7) is None
    assert [standing.rank for standing in found.standings] == [1, 2, 3, 1, 2]
    assert [(gap.better, gap.worse) for gap in found.gaps] == [(0, 1), (1, 2), (7, 8)]
    assert not found.held
    difference = found.difference(7, 8)
    assert difference is not None
    assert difference.value == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "ratings",
    [
        pytest.param([(0, 1, 1)] * 9 + [(1, 2, 1), (2, 1, 1)] * 9, id="one never lost"),
        pytest.param([(0, 1, 1)] * 9 + [(0, 1, 0)] * 3, id="one never lost but tied"),
        pytest.param([(0, 1, 0)] * 9, id="nothing but ties"),
        pytest.param([(0, 1, 1)], id="one rating"),
    ],
)
def test_where_no_finite_strength_fits_they_are_held_and_it_is_said(ratings: list[Rating]) -> None:
    found = ranked(ratings, resamples=1000)
    assert found.held
    assert all(math.isfinite(standing.strength.value) for standing in found.standings)
    assert found.of(0).rank == 1


def test_where_a_side_cannot_be_told_from_a_strength_it_is_left_out_and_said() -> None:
    ratings = [(0, model, outcome) for model in (1, 2) for outcome in [1] * 8 + [0] * 2 + [-1] * 4]
    asked, plain = ranked(ratings, shown_first=True), ranked(ratings)
    assert asked.shown_first is None
    assert strengths_of(asked, 3) == strengths_of(plain, 3)
    # Two ratings in another order tell them apart.
    assert ranked([*ratings, (1, 2, 1), (2, 0, -1)], shown_first=True).shown_first is not None


@pytest.mark.parametrize(("wins", "decided"), [(3, False), (12, True)])
def test_a_model_that_never_lost_is_no_surer_than_its_few_wins(wins: int, decided: bool) -> None:
    # By the binomial, three wins of three happen to equals one time in four, twelve of twelve in two thousand.
    ratings = [(0, 1, 1)] * wins + [(1, 2, outcome) for outcome in (1, -1)] * 20
    found = ranked(ratings, resamples=1000)
    difference = found.difference(0, 1)
    assert difference is not None
    assert found.held
    assert (difference.interval(0.95)[0] > 0) is decided


def test_who_never_lost_but_tied_has_a_strength_where_others_show_how_likely_ties_are() -> None:
    # With the chance of a tie known from models 1 and 2, three ties among nine wins bound model 0's strength.
    ratings = [(0, 1, 1)] * 9 + [(0, 1, 0)] * 3 + [(1, 2, 1), (1, 2, 0), (1, 2, -1)] * 20
    assert not ranked(ratings).held


def test_one_prompt_decides_nothing() -> None:
    first, second, outcome = zip(*[(0, 1, 1)] * 50, strict=True)
    found = ranking(first, second, outcome, clusters=["the same"] * 50)
    assert found.standings[0].ranks == (1, 2)
    gap = found.gaps[0]
    assert (gap.decided, gap.more_clusters, gap.more_ratings) == (False, None, None)


def test_ratings_of_one_prompt_count_as_one_observation() -> None:
    once = played([0.5, 0.0, -0.5], 10, 1, nu=0.5)
    alone = ranked(once, resamples=1000)
    first, second, outcome = zip(*[rating for rating in once for _ in range(3)], strict=True)
    together = ranking(first, second, outcome, clusters=[place // 3 for place in range(len(first))], resamples=1000)
    assert (together.clusters, together.ratings) == (60, 180)
    # Not to the last digit: what holds resamples weighs a third as much against three times the ratings.
    assert together.of(0).strength.interval(0.95) == pytest.approx(alone.of(0).strength.interval(0.95), abs=0.02)


def test_nineteen_of_twenty_intervals_cover_the_truth_and_the_ranks_hold_all_at_once() -> None:
    truth = [0.6, 0.1, -0.1, -0.6]
    strengths = np.array(truth) - np.mean(truth)
    covered, ranks_held, number = np.zeros(4), 0, 100
    for seed in range(number):
        found = ranked(played(truth, 12, seed, nu=0.6, beta=0.2), shown_first=True, resamples=1000)
        for model in range(4):
            low, high = found.of(model).strength.interval(0.95)
            covered[model] += low <= strengths[model] <= high
        ranks_held += all(found.of(m).ranks[0] <= m + 1 <= found.of(m).ranks[1] for m in range(4))
    # 400 intervals of 0.95; 100 draws of 0.95 are at least 89 with a chance of 0.996.
    assert covered.min() >= 88
    assert covered.sum() >= 368
    assert ranks_held >= 89


def test_as_many_more_ratings_as_it_says_decide_four_times_in_five() -> None:
    few = ranked(played([0.15, -0.15], 60, 1), resamples=1000)
    gap = few.gaps[0]
    assert not gap.decided
    assert gap.more_ratings is not None
    assert gap.more_clusters == gap.more_ratings
    needed = (few.ratings + gap.more_ratings) // 2
    seen = few.gaps[0].difference.value
    decided = sum(
        ranked(played([seen / 2, -seen / 2], needed, seed), resamples=1000).gaps[0].decided for seed in range(40)
    )
    # 32 expected; 40 draws of 0.8 lie between 25 and 38 with a chance of 0.99.
    assert 25 <= decided <= 38


def test_what_is_decided_needs_no_more() -> None:
    gap = ranked(played([1.0, -1.0], 100, 0), resamples=1000).gaps[0]
    assert (gap.decided, gap.more_clusters, gap.more_ratings) == (True, 0, 0)


def test_equal_models_are_decided_by_no_number() -> None:
    gap = ranked([(0, 1, 1), (0, 1, -1)] * 20, resamples=1000).gaps[0]
    assert (gap.decided, gap.more_ratings) == (False, None)


def test_the_ranking_of_pandalms_five_models() -> None:
    if not PANDALM.is_file():
        pytest.skip(f"the PandaLM ratings are not at {PANDALM}")
    rows = json.loads(PANDALM.read_text())
    ratings = [
        (*row["cmp_key"].split("_"), {0: 0, 1: 1, 2: -1}[row[f"annotator{rater}"]], row["instruction"] + row["input"])
        for row in rows
        for rater in (1, 2, 3)
    ]
    first, second, outcome, prompts = zip(*ratings, strict=True)
    found = ranking(first, second, outcome, clusters=prompts)
    assert found.groups == (("llama-7b", "pythia-6.9b", "bloom-7b", "opt-7b", "cerebras-gpt-6.7B"),)
    number = {model: place for place, model in enumerate(found.groups[0])}
    theta, nu, _ = slow([(number[a], number[b], outcome) for a, b, outcome, _ in ratings], 5, sides=False)
    assert [standing.strength.value for standing in found.standings] == pytest.approx(theta, abs=1e-4)
    assert found.tie is not None
    assert found.tie.value == pytest.approx(nu / (2 + nu), abs=1e-4)
    assert found.standings[0].ranks == (1, 1)
    assert (found.ratings, found.clusters) == (2997, len(set(prompts)))
    # The ratings of one prompt go together: intervals that take them for independent are too narrow.
    independent = ranking(first, second, outcome)
    for model in number:
        assert found.of(model).strength.se > 1.5 * independent.of(model).strength.se


@pytest.mark.parametrize(
    ("first", "second", "outcome", "says"),
    [
        ([], [], [], "no comparisons"),
        (["a"], ["b", "c"], [1], "no comparisons"),
        (["a", "b"], ["b", "b"], [1, 1], "'b' is compared with itself"),
    ],
)
def test_what_is_no_comparison_is_a_bug_of_the_caller(
    first: list[str], second: list[str], outcome: list[int], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        ranking(first, second, outcome)


@pytest.mark.benchmark
@pytest.mark.parametrize(("models", "prompts"), [(20, 300_000), (100, 300_000)])
def test_a_million_ratings_take_a_minute(models: int, prompts: int) -> None:
    draw = np.random.default_rng(0)
    pairs = np.array(list(combinations(range(models), 2)))
    drawn = pairs[draw.integers(0, len(pairs), 1_000_000)]
    better = draw.random(1_000_000) < 1 / (1 + np.exp((drawn[:, 0] - drawn[:, 1]) * 0.1))
    start = time.perf_counter()
    found = ranking(
        drawn[:, 0].tolist(),
        drawn[:, 1].tolist(),
        np.where(better, 1, -1).tolist(),
        clusters=draw.integers(0, prompts, 1_000_000).tolist(),
    )
    assert found.ratings == 1_000_000
    assert time.perf_counter() - start < 60
