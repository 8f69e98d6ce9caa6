"""A router learned from graded answers finds what makes prompts hard, keeps its floor, and is the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmops.errors import InputError
from llmops.serve.routing.calibrate import Calibrated, calibrate, trial
from llmops.serve.routing.curve import Ranking, curve
from llmops.serve.routing.features import features_of_text
from llmops.serve.routing.graded import Graded
from llmops.serve.routing.judged import calibration_error, expected, judged
from llmops.serve.routing.learn import CANDIDATES as CANDIDATES_OF_ALL
from llmops.serve.routing.learn import Candidate, Prompts, best, folds_of, held_out
from llmops.serve.routing.router import Aim, Router
from llmops.serve.routing.worth import worth_of_router
from tests.serve.routing.graded_prompts import made

CANDIDATES = (Candidate("length", 0, ("characters",)), Candidate("words", 1, (), fewest=1))
FLOOR = Aim(kind="quality", value=0.9, confidence=0.95, small_cost=0.1)


def run(graded: Graded, aim: Aim = FLOOR) -> Calibrated:
    return calibrate(graded, aim, candidates=CANDIDATES, resamples=1000)


@pytest.fixture(scope="module")
def informative() -> Calibrated:
    return run(made(confidence=True))


@pytest.fixture(scope="module")
def uninformative() -> Calibrated:
    return run(made(informative=False))


def test_words_that_tell_are_chosen_and_beat_length(informative: Calibrated) -> None:
    assert informative.router.learning.chosen == "words"
    assert informative.judged.beats_length.low > 0
    # With 40 % hard prompts, known for sure: all of the gap, 0.4 · 0.8, lies in the first 40 % of the calls.
    assert informative.judged.line("learned").apgr.value == pytest.approx(1 - 0.4 / 2, abs=0.06)
    hard, easy = (informative.router.model.chances(features_of_text(text)) for text in ("red kernel", "red sea"))
    assert hard.gap > 0.5 > 0.2 > easy.gap


def test_words_that_tell_nothing_are_not_said_to_beat_length(uninformative: Calibrated) -> None:
    assert uninformative.judged.beats_length.low <= 0
    assert uninformative.judged.line("learned").apgr.value < 0.6


def test_the_floor_holds_on_prompts_that_come_later(informative: Calibrated) -> None:
    later = made(2000, seed=9)
    found = worth_of_router(informative.router, later, resamples=1000).judged.expected
    assert found.quality.value >= 0.9
    promised = informative.router.expected
    assert promised.quality.low <= found.quality.high
    assert found.quality.low <= promised.quality.high
    assert abs(found.large_share.value - promised.large_share.value) < 0.1


def test_a_ceiling_of_cost_holds_on_prompts_that_come_later() -> None:
    ceiling = Aim(kind="cost", value=0.4, confidence=0.5, small_cost=0.1)
    found = run(made(), ceiling)
    later = worth_of_router(found.router, made(2000, seed=9), resamples=1000).judged.expected
    assert 1 - later.saving.value == pytest.approx(0.4, abs=0.06)


def test_the_same_rows_make_the_same_router(informative: Calibrated) -> None:
    assert run(made(confidence=True)).router == informative.router


def test_a_router_says_what_made_it(informative: Calibrated) -> None:
    router = informative.router
    assert router.data.digest == made(confidence=True).digest
    assert router.learning.candidates == ("length", "words")
    assert router.learning.versions.keys() == {"python", "llmops", "scikit-learn", "numpy", "scipy"}
    assert router.aim == FLOOR
    assert router.tokens == max(features_of_text(prompt).prompt_tokens for prompt in made(confidence=True).prompts)


def test_on_its_own_rows_a_router_is_shown_by_its_procedure_on_held_out_folds() -> None:
    """What it was learned from, it knows by heart."""
    data = made(100, informative=False)
    known = CANDIDATES_OF_ALL[2:4]
    found = calibrate(data, FLOOR, candidates=known).router
    worth = worth_of_router(found, data)
    assert "held-out" in worth.notes[0]
    tried = trial(data, FLOOR, candidates=known)
    honest = curve(Ranking.by(tried.held_out.places), data.gaps).area()
    assert worth.judged.line("learned").apgr.value == pytest.approx(float(honest))
    by_heart = np.asarray([found.model.chances(features_of_text(prompt)).gap for prompt in data.prompts])
    assert curve(Ranking.by(by_heart), data.gaps).area() > honest + 0.1


def test_no_row_is_told_by_a_model_that_saw_it() -> None:
    """Grades of one fold are turned round: what is said of that fold stays the same."""
    data = made(150)
    prompts, rows = Prompts.of(data.prompts), np.arange(len(data))
    fold = folds_of(data.clusters, 5, 17)
    turned = replace(data, small=np.where(fold == 2, 1 - data.small, data.small))
    before, after = (held_out(CANDIDATES[1], prompts, one, rows, folds=5, seed=17) for one in (data, turned))
    np.testing.assert_array_equal(before.chances[fold == 2], after.chances[fold == 2])
    assert (before.chances[fold != 2] != after.chances[fold != 2]).any()


def test_the_whole_trial_never_sees_a_held_out_grade() -> None:
    """Neither in learning, nor in choosing what to read, nor in picking the threshold."""
    data = made(150)
    fold = folds_of(data.clusters, 5, 17)
    turned = replace(
        data, small=np.where(fold == 1, 1 - data.small, data.small), large=np.where(fold == 1, 1, data.large)
    )
    before, after = (trial(one, FLOOR, candidates=CANDIDATES) for one in (data, turned))
    inside = fold == 1
    np.testing.assert_array_equal(before.held_out.chances[inside], after.held_out.chances[inside])
    np.testing.assert_array_equal(before.to_large[inside], after.to_large[inside])


def test_rows_of_one_cluster_share_a_fold_and_folds_are_even() -> None:
    clusters = [number // 3 for number in range(300)]
    fold = folds_of(clusters, 5, 0)
    assert all(len(set(fold[start : start + 3])) == 1 for start in range(0, 300, 3))
    assert sorted(np.bincount(fold)) == [60] * 5
    assert (folds_of(clusters, 5, 1) != fold).any()


def test_length_by_itself_ranks_as_length() -> None:
    """Within each fold; in one order over all folds, it would rank worse than it does."""
    data = made(300)
    found = held_out(CANDIDATES[0], Prompts.of(data.prompts), data, np.arange(300), folds=5, seed=17)
    lengths = np.asarray([len(prompt) for prompt in data.prompts])
    for number in range(5):
        inside = found.folds == number
        order = np.corrcoef(found.gaps[inside].argsort().argsort(), lengths[inside].argsort().argsort())[0, 1]
        assert abs(order) > 0.99


def test_the_best_candidate_is_the_one_with_the_largest_area() -> None:
    data = made(150)
    prompts, rows = Prompts.of(data.prompts), np.arange(150)
    chosen, found = best(CANDIDATES, prompts, data, rows)
    areas = [
        float(curve(Ranking.by(held_out(one, prompts, data, rows).places), data.gaps).area()) for one in CANDIDATES
    ]
    assert chosen == CANDIDATES[int(np.argmax(areas))]
    assert float(curve(Ranking.by(found.places), data.gaps).area()) == max(areas)


def test_half_grades_count_half() -> None:
    """A grade of 0.5 teaches as one right and one wrong answer of half the weight each."""
    data = made(200)
    halves = replace(data, small=np.where(data.small == 1, 0.75, 0.25))
    found = calibrate(halves, FLOOR, candidates=CANDIDATES).router
    chances = [found.model.chances(features_of_text(prompt)).small for prompt in data.prompts]
    assert np.mean(chances) == pytest.approx(halves.small.mean(), abs=0.01)


def test_a_model_that_is_always_right_can_be_learned() -> None:
    data = made(150)
    found = run(replace(data, large=np.ones(150))).router
    assert found.model.chances(features_of_text("red sea")).large > 0.99


def test_a_cascade_gets_a_bound_where_confidences_are_known(informative: Calibrated, uninformative: Calibrated) -> None:
    assert uninformative.router.confidence is None
    confidence = informative.router.confidence
    assert confidence is not None
    sure, data = confidence.sure(), made(3000, seed=4, confidence=True)
    assert data.confidence is not None
    calibrated = np.asarray([sure.confidence([float(np.log(one))]) for one in data.confidence])
    stands = np.asarray([sure.of_all([[float(np.log(one))]]) for one in data.confidence])
    assert calibration_error(calibrated, data.small) < 0.06
    assert calibration_error(data.confidence, data.small) > 0.06, "as it is, it is not calibrated"
    routed = np.where(stands, data.small, data.large)
    assert routed.mean() >= 0.9 * data.large.mean() - 0.02
    assert 0 < stands.mean() < 1


def test_too_few_different_prompts_are_refused() -> None:
    data = made(100)
    with pytest.raises(InputError, match="10 different prompts"):
        run(replace(data, clusters=tuple(number % 10 for number in range(100))))


def test_what_a_threshold_gives_is_counted() -> None:
    data = replace(
        made(60),
        small=np.asarray([1, 0, 0, 1] * 15, dtype=float),
        large=np.asarray([1, 1, 0, 0] * 15, dtype=float),
    )
    to_large = np.asarray([False, False, True, True] * 15)
    found = expected(data, to_large, small_cost=0.2)
    # Right are the first small one of four; the large model is right twice.
    assert found.quality.value == 0.5
    assert found.large_share.value == 0.5
    assert found.saving.value == pytest.approx(0.4)
    assert found.false_cheap.value == 0.5
    for one in (found.quality, found.false_cheap):
        assert one.low < one.value < one.high


@pytest.mark.parametrize("to", [True, False])
def test_all_to_one_model(to: bool) -> None:
    data = made(60)
    found = expected(data, np.full(60, to), small_cost=0.2)
    assert found.large_share.value == float(to)
    assert found.saving.value == pytest.approx(0.0 if to else 0.8)
    assert found.quality.value == pytest.approx(1.0 if to else data.small.mean() / data.large.mean())


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """APGR of a fixed ranking, whose truth is known from a large sample, in 40 small ones."""

    def scored(rows: int, seed: int) -> tuple[Graded, Any]:
        data = made(rows, seed=seed)
        hard = np.asarray([any(word in prompt for word in ("kernel", "matrix")) for prompt in data.prompts])
        return data, np.column_stack([1 - 0.5 * hard, np.full(rows, 0.9)])

    data, chances = scored(20_000, 1000)
    truth = float(curve(Ranking.by(chances[:, 1] - chances[:, 0]), data.gaps).area())
    held = 0
    for seed in range(40):
        data, chances = scored(150, seed)
        apgr = judged(data, chances, chances[:, 0] < 0.9, small_cost=0.0, resamples=1000).line("learned").apgr
        held += apgr.low <= truth <= apgr.high
    assert held >= 34  # 38 expected; fewer has a chance of 1 in 300


def test_calibration_errors_are_those_of_a_loop() -> None:
    draw = np.random.default_rng(0)
    predicted = draw.random(103)
    seen = (draw.random(103) < predicted**2).astype(float)
    rows = sorted(zip(predicted, seen, strict=True))
    sizes = [11] * 3 + [10] * 7
    total, start = 0.0, 0
    for size in sizes:
        part = rows[start : start + size]
        total += abs(sum(one for one, _ in part) - sum(two for _, two in part))
        start += size
    assert calibration_error(predicted, seen) == pytest.approx(total / 103)


def test_strange_prompts_go_to_the_large_model(informative: Calibrated) -> None:
    data = made(200, seed=3)
    strange = replace(data, prompts=tuple(f"übermorgen kümmern {number}" for number in range(200)))
    worth = worth_of_router(informative.router, strange)
    assert worth.judged.expected.large_share.value == 1.0
    assert worth.notes == ("200 of 200 prompts are unlike those it was learned from and go to the large model",)
    assert isinstance(informative.router, Router)
