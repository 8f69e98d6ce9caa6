"""Accuracy, precision, recall and F1 are scikit-learn's, of all classes and of each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from llmops.errors import InputError
from llmops.eval.metric import estimates
from llmops.eval.scorers.classes import Classes
from tests.eval.measurements import answered

LABELS = ["Good", "bad", "so so"]


def values(scorer: Classes, answers: list[str], truth: list[str]) -> dict[str, float]:
    found = scorer.measure(answered(answers, [[one] for one in truth]))
    assert tuple(metric.name for metric in found) == scorer.names()
    return {metric.name: metric.value() for metric in found}


pairs = st.lists(
    st.tuples(st.sampled_from([*LABELS, "nonsense", ""]), st.sampled_from(LABELS)), min_size=1, max_size=30
)


@given(pairs)
def test_every_number_is_scikit_learns(both: list[tuple[str, str]]) -> None:
    answers, truth = [given_ for given_, _ in both], [true for _, true in both]
    found = values(Classes(labels=LABELS), answers, truth)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, answers))
    each = precision_recall_fscore_support(truth, answers, labels=LABELS, zero_division=0)
    for place, label in enumerate(LABELS):
        assert [found[f"{name}[{label}]"] for name in ("precision", "recall", "f1")] == pytest.approx(
            [float(of_all[place]) for of_all in each[:3]]
        )
    # A class that is neither there nor named is left out of their mean too when it is not asked for.
    there = [label for label in LABELS if label in truth or label in answers]
    macro = precision_recall_fscore_support(truth, answers, labels=there, average="macro", zero_division=0)[:3]
    assert [found[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(list(map(float, macro)))


def test_without_labels_those_of_the_references_are_taken_and_only_what_concerns_all_is_measured() -> None:
    found = values(Classes(), ["yes", "maybe", "no"], ["yes", "no", "no"])
    assert set(found) == {"accuracy", "macro_precision", "macro_recall", "macro_f1"}
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["macro_recall"] == pytest.approx((1 + 1 / 2) / 2)
    # `maybe` is nobody's class, so it lowers no precision.
    assert found["macro_precision"] == 1.0


def test_case_and_white_space_do_not_count_unless_asked() -> None:
    assert values(Classes(labels=LABELS), [" GOOD\n"], ["Good"])["accuracy"] == 1.0
    assert values(Classes(labels=LABELS, lowercase=False), ["GOOD"], ["Good"])["accuracy"] == 0.0


def test_a_pattern_finds_the_class_in_a_longer_answer() -> None:
    scorer = Classes(labels=LABELS, pattern=r"label: (\w+)")
    assert values(scorer, ["label: bad? No, label: good.", "good"], ["Good", "Good"])["accuracy"] == 0.5


def test_any_reference_will_do_and_else_the_first_counts() -> None:
    scorer = Classes(labels=LABELS)
    found = {
        metric.name: metric.value()
        for metric in scorer.measure(answered(["bad", "so so"], [["good", "bad"], ["good", "bad"]]))
    }
    assert (found["accuracy"], found["recall[bad]"], found["recall[Good]"]) == (0.5, 1.0, 0.0)


def test_an_item_that_is_not_of_a_class_has_no_value_for_it_but_all_have_an_interval() -> None:
    scorer = Classes(labels=LABELS)
    truth = LABELS * 20
    metrics = scorer.measure(answered([*truth[:40], *["bad"] * 20], [[one] for one in truth]))
    by_name = {metric.name: metric for metric in metrics}
    assert math.isnan(by_name["recall[bad]"].per_item[0])
    found = estimates(metrics, {"": range(60)})[""]
    for metric in metrics:
        assert np.isfinite(metric.statistics).all()
        low, high = found[metric.name].interval(0.95)
        assert low <= metric.value() <= high


def test_a_reference_that_is_no_label_is_refused() -> None:
    with pytest.raises(InputError, match="'god' is none of the labels Good, bad, so so"):
        values(Classes(labels=LABELS), ["good"], ["god"])


def test_two_labels_of_one_class_are_refused() -> None:
    with pytest.raises(ValidationError, match="are one class"):
        Classes(labels=["yes", "Yes"])
