"""Two models are compared item by item, and a difference is found only where there is one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from llmops.errors import InputError
from llmops.eval.compare import compare
from llmops.eval.metric import differences, mean_of, share_of
from llmops.eval.scorers.corpus import Bleu
from tests.eval.measurements import answered, measured, right, scored

SHARED = Path(__file__).parents[3] / "shared" / "data"
GSM8K = SHARED / "gsm8k" / "example_model_solutions.jsonl"


@pytest.fixture(scope="module")
def gsm8k() -> dict[str, list[bool]]:
    """Right or wrong of four models on the same 1,319 questions."""
    if not GSM8K.is_file():
        pytest.skip(f"the answers to GSM8K are not at {GSM8K}")
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    models = [name for name in rows[0] if isinstance(rows[0][name], dict)]
    return {name: [bool(row[name]["is_correct"]) for row in rows] for name in models}


def test_the_published_difference_on_gsm8k(gsm8k: dict[str, list[bool]]) -> None:
    weak, strong = right(gsm8k["6b_finetuning"], model="6b"), right(gsm8k["175b_verification"], model="175b")
    found = compare(weak, strong).of("exact_match")
    assert (round(found.first, 4), round(found.second, 4)) == (0.2168, 0.5625)
    assert found.finding == "better"
    assert found.wins - found.losses == round(found.value * 1319)
    assert found.wins + found.ties + found.losses == 1319
    mcnemar = scipy.stats.binomtest(found.wins, found.wins + found.losses).pvalue
    assert mcnemar < 1e-10
    assert found.p == pytest.approx(1 / 10_001)
    assert compare(strong, weak).of("exact_match").finding == "worse"


def test_two_models_too_close_to_call_say_how_many_items_would_do(gsm8k: dict[str, list[bool]]) -> None:
    """The number is confirmed by drawing that many of the pairs seen, again and again."""
    few = slice(0, 150)
    first, second = gsm8k["6b_verification"][few], gsm8k["175b_finetuning"][few]
    found = compare(right(first), right(second)).of("exact_match")
    assert found.finding == "inconclusive"
    assert found.low < 0 < found.high
    assert found.items_to_decide is not None
    draw = np.random.default_rng(0)
    one, two = np.array(first), np.array(second)
    decided = 0
    for _ in range(500):
        some = draw.integers(0, len(one), found.items_to_decide)
        metrics = [share_of("exact_match", "v1", hits[some].tolist()) for hits in (one, two)]
        (estimates,) = differences(metrics[:1], metrics[1:], {"": range(len(some))}).values()
        low, high = estimates["exact_match"].interval(0.95)
        decided += low > 0 or high < 0
    # Three standard errors of a share of 500.
    assert decided / 500 == pytest.approx(0.8, abs=0.054)


def test_bleu_is_tested_as_sacrebleu_does_but_on_both_sides() -> None:
    draw = np.random.default_rng(4)
    words = ["red", "green", "blue", "a", "b", "c", "d", "the", "of"]
    references = [[" ".join(draw.choice(words, 12))] for _ in range(120)]

    def noisy(share: float) -> list[str]:
        return [
            " ".join(str(draw.choice(words)) if draw.random() < share else word for word in reference.split())
            for (reference,) in references
        ]

    answers = noisy(0.30), noisy(0.26)
    metrics = [Bleu().measure(answered(one, references))[0] for one in answers]
    found = compare(measured([metrics[0]], model="a"), measured([metrics[1]], model="b")).of("bleu")
    systems = [("a", answers[0]), ("b", answers[1])]
    corpus = [[reference for (reference,) in references]]
    _, theirs = PairedTest(systems, {"BLEU": BLEU()}, corpus, test_type="ar", n_samples=2000, n_jobs=1)()
    before, after = theirs["BLEU"]
    assert found.value == pytest.approx(after.score - before.score, abs=1e-9)
    assert after.p_value is not None
    assert found.p == pytest.approx(after.p_value, abs=0.04)
    # Their bootstrap counts one tail; ours agrees with randomisation.
    assert found.p_bootstrap == pytest.approx(found.p, abs=0.06)


def test_items_are_paired_by_their_ids_whatever_their_order() -> None:
    draw = np.random.default_rng(0)
    values = draw.random(60)
    ids = [f"item{number}" for number in range(60)]
    shuffled = draw.permutation(60)
    first = scored(values.tolist(), ids=ids)
    second = scored((values + 0.1)[shuffled].tolist(), ids=[ids[place] for place in shuffled])
    found = compare(first, second)
    assert found.of("rougeL").value == pytest.approx(0.1)
    assert found.of("rougeL").wins == 60
    assert [item.id for item in found.second.items] == ids


def test_a_paired_difference_is_surer_than_two_scores_apart() -> None:
    draw = np.random.default_rng(0)
    values = draw.random(200)
    found = compare(scored(values.tolist()), scored((values + draw.normal(0.02, 0.02, 200)).tolist())).of("rougeL")
    assert found.finding == "better"
    assert found.high - found.low < 0.2 * 2 * 1.96 * values.std() / np.sqrt(200)
    theirs = scipy.stats.t.interval(0.95, 199, found.value, (found.high - found.low) / 3.94)
    assert (found.low, found.high) == pytest.approx(theirs, abs=2e-3)


def test_slices_are_compared_too_and_all_findings_are_corrected_together() -> None:
    draw = np.random.default_rng(1)
    kinds = [{"kind": "a" if place % 2 else "b"} for place in range(400)]
    first = draw.random(400)
    second = first + np.where(np.arange(400) % 2 == 1, draw.normal(-0.1, 0.1, 400), draw.normal(0, 0.1, 400))
    found = compare(scored(first.tolist(), slices=kinds), scored(second.tolist(), slices=kinds))
    assert [(one.group, one.items) for one in found.differences] == [("", 400), ("kind=a", 200), ("kind=b", 200)]
    assert [one.finding for one in found.differences] == ["worse", "worse", "inconclusive"]
    assert all(one.p_holm >= one.p for one in found.differences)


def test_lower_is_better_where_the_metric_says_so() -> None:
    draw = np.random.default_rng(1)
    before = draw.random(100)
    one, two = (mean_of("ter", "v1", values.tolist(), better="lower") for values in (before, before - 0.2))
    found = compare(measured([one]), measured([two])).of("ter")
    assert (found.finding, found.wins, found.losses) == ("better", 100, 0)


def test_the_items_that_changed_most_come_first() -> None:
    first, second = [0.5] * 10, [0.5] * 10
    second[3], second[7] = 0.9, 0.0
    changed = compare(scored(first), scored(second)).changed
    assert [(one.place, one.change) for one in changed] == [(7, -0.5), (3, pytest.approx(0.4))]


def test_a_model_compared_with_itself_is_no_different() -> None:
    values = np.random.default_rng(0).random(50).tolist()
    found = compare(scored(values), scored(values)).of("rougeL")
    assert (found.value, found.p, found.finding, found.ties) == (0.0, 1.0, "inconclusive", 50)
    assert found.items_to_decide is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suite": "other"}, "was measured on s, m on other"),
        ({"suite_digest": "e"}, "measure different things"),
        ({"ids": ["x", "y", "z"]}, "hold different items: 3 are only in that of m"),
    ],
)
def test_reports_of_different_things_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(right([1, 0, 1]), right([1, 0, 1], **change))


def test_different_signatures_are_refused() -> None:
    other = replace(share_of("exact_match", "v1", [1, 0, 1]), signature="v2")
    with pytest.raises(InputError, match="exact_match of m was computed as v1, of m as v2"):
        compare(right([1, 0, 1]), measured([other]))
