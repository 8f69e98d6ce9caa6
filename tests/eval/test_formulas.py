"""A formula gives, for many sums at once, what the library it stands for gives for each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER
from sklearn.metrics import precision_recall_fscore_support

from llmops.eval.formulas import formula

counts = st.integers(0, 40)


@given(st.lists(st.tuples(counts, counts, *[st.tuples(counts, counts) for _ in range(4)]), min_size=1))
def test_bleu_is_sacrebleus(corpora: list[Any]) -> None:
    sums = []
    for length, reference, *orders in corpora:
        matched, possible = [min(pair) for pair in orders], [max(pair) for pair in orders]
        sums.append([length, reference, *matched, *possible])
    theirs = [BLEU()._compute_score_from_stats(list(one)).score for one in sums]
    assert formula("bleu")(np.array(sums, dtype=float)).tolist() == pytest.approx(theirs, abs=1e-9)


@given(st.lists(st.tuples(counts, counts, *[st.tuples(counts, counts) for _ in range(4)]), min_size=1))
def test_bleu_of_an_item_alone_is_sacrebleus_with_the_orders_it_has(corpora: list[Any]) -> None:
    sums = []
    for length, reference, *orders in corpora:
        # An answer of three words has no 4-gram: possible n-grams only fall with n, matched ones are among them.
        possible = sorted((max(pair) for pair in orders), reverse=True)
        matched = [min(one, *pair) for one, pair in zip(possible, orders, strict=True)]
        sums.append([length, reference, *matched, *possible])
    theirs = [BLEU(effective_order=True)._compute_score_from_stats(list(one)).score for one in sums]
    assert formula("bleu_alone")(np.array(sums, dtype=float)).tolist() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("words", [0, 2])
@given(data=st.data())
def test_chrf_is_sacrebleus(words: int, data: st.DataObject) -> None:
    metric = CHRF(word_order=words)
    order = st.tuples(counts, counts).flatmap(lambda two: st.tuples(st.just(two), st.integers(0, min(two))))
    corpora = data.draw(st.lists(st.lists(order, min_size=metric.order, max_size=metric.order), min_size=1))
    sums = [
        [number for (answer, reference), both in orders for number in (answer, reference, both)] for orders in corpora
    ]
    theirs = [metric._compute_f_score(one) for one in sums]
    assert formula("chrf:2")(np.array(sums, dtype=float)).tolist() == pytest.approx(theirs, abs=1e-9)


@given(st.lists(st.tuples(counts, counts.map(lambda tenths: tenths / 10)), min_size=1))
def test_ter_is_sacrebleus(corpora: list[tuple[int, float]]) -> None:
    theirs = [TER()._compute_score_from_stats(list(one)).score for one in corpora]
    assert formula("ter")(np.array(corpora, dtype=float)).tolist() == pytest.approx(theirs, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40))
def test_macro_values_are_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    classes = sorted({one for pair in pairs for one in pair})
    sums = [
        number
        for one in classes
        for number in (
            sum(truth == given == one for truth, given in pairs),
            sum(given == one for _, given in pairs),
            sum(truth == one for truth, _ in pairs),
        )
    ]
    truth, given_ = zip(*pairs, strict=True)
    theirs = precision_recall_fscore_support(truth, given_, average="macro", labels=classes, zero_division=0)
    for name, expected in zip(("macro_precision", "macro_recall", "macro_f1"), theirs, strict=False):
        assert float(formula(name)(np.array(sums, dtype=float))) == pytest.approx(expected, abs=1e-12)


def test_perplexity_is_e_to_the_mean_of_nats() -> None:
    assert float(formula("perplexity")(np.array([math.log(8) * 5, 5]))) == pytest.approx(8)


@given(st.floats(-1e6, 1e6), st.integers(1, 1000), st.data())
def test_a_number_of_all_items_is_one_of_nothing_less(value: float, items: int, data: st.DataObject) -> None:
    rows = np.tile([value / items, 1 / items], (items, 1))
    assert float(formula("whole")(rows.sum(0))) == pytest.approx(value, rel=1e-9)
    some = data.draw(st.integers(0, items - 1))
    assert math.isnan(float(formula("whole")(rows[:some].sum(0))))


def test_a_mean_over_nothing_is_no_number_and_an_unknown_formula_a_bug() -> None:
    assert math.isnan(float(formula("mean")(np.zeros(2))))
    assert float(formula("ratio:100:0")(np.zeros(2))) == 0.0
    with pytest.raises(ValueError, match="no formula"):
        formula("wishful")
