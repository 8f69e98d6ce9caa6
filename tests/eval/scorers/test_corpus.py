"""Scores are those of sacreBLEU, over any choice of items, with the signature that says how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.section import Origin
from llmops.data.sources import read
from llmops.eval.metric import Metric
from llmops.eval.scorers.catalog import Scorer
from llmops.eval.scorers.corpus import Bleu, Chrf, Ter, transposed
from llmops.eval.scorers.rouge import Rouge
from llmops.eval.scorers.text import ExactMatch
from tests.eval.measurements import answered

E2E = Path(__file__).parents[3].parent / "shared" / "data" / "e2e" / "testset_w_refs.csv"

ANSWERS = ["the cat sat on the mat", "A dog barked at the moon", "no"]
REFERENCES = [
    ["the cat sat on a mat", "The cat is sitting on the mat"],
    ["a dog barked at the moon"],
    ["yes", "no", "perhaps so"],
]
ALL: list[Scorer] = [Bleu(), Chrf(), Chrf(word_order=2), Ter(), Rouge(), ExactMatch()]

words = st.sampled_from(["the", "cat", "dog", "sat", "on", "a", "mat", "Moon", ".", ","])
sentences = st.lists(words, min_size=1, max_size=9).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=6)


def one(scorer: Scorer, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Metric:
    (metric,) = scorer.measure(answered(answers, references))
    return metric


def test_fewer_references_are_padded_with_none() -> None:
    assert transposed([["a", "b"], ["c"]]) == [["a", "c"], ["b", None]]


@given(corpora)
def test_corpus_values_and_signatures_are_sacrebleus_own(corpus: list[tuple[str, list[str]]]) -> None:
    answers, references = [answer for answer, _ in corpus], [refs for _, refs in corpus]
    padded = transposed(references)
    for scorer, theirs in (
        (Bleu(), sacrebleu.BLEU()),
        (Bleu(lowercase=True, tokenize="char"), sacrebleu.BLEU(lowercase=True, tokenize="char")),
        (Chrf(), sacrebleu.CHRF()),
        (Chrf(word_order=2, lowercase=True), sacrebleu.CHRF(word_order=2, lowercase=True)),
        (Ter(), sacrebleu.TER()),
        (
            Ter(lowercase=False, normalized=True, punctuation=False),
            sacrebleu.TER(case_sensitive=True, normalized=True, no_punct=True),
        ),
    ):
        metric = one(scorer, answers, references)
        assert metric.value() == pytest.approx(theirs.corpus_score(answers, padded).score, abs=1e-12)
        assert metric.signature == str(theirs.get_signature())


@given(corpora, st.data())
def test_the_value_of_some_items_is_that_of_a_corpus_of_only_these(
    corpus: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    answers, references = [answer for answer, _ in corpus], [refs for _, refs in corpus]
    chosen = data.draw(st.lists(st.sampled_from(range(len(corpus))), min_size=1, unique=True))
    for scorer in ALL:
        alone = scorer.measure(answered([answers[index] for index in chosen], [references[index] for index in chosen]))
        for metric, expected in zip(scorer.measure(answered(answers, references)), alone, strict=True):
            assert metric.value(chosen) == pytest.approx(expected.value(), abs=1e-12)


def test_a_mean_over_no_items_is_no_number() -> None:
    assert math.isnan(one(ExactMatch(), ANSWERS, REFERENCES).value([]))


@given(corpora)
def test_per_item_values_are_sentence_scores(corpus: list[tuple[str, list[str]]]) -> None:
    answers, references = [answer for answer, _ in corpus], [refs for _, refs in corpus]
    for scorer, theirs in (
        (Bleu(), sacrebleu.sentence_bleu),
        (Chrf(), sacrebleu.sentence_chrf),
        (Ter(), sacrebleu.sentence_ter),
    ):
        expected = [theirs(answer, refs).score for answer, refs in corpus]
        assert one(scorer, answers, references).per_item == pytest.approx(expected, abs=1e-9)


def test_case_moves_bleu_and_is_in_the_signature() -> None:
    shouted = [answer.upper() for answer in ANSWERS]
    cased, uncased = one(Bleu(), shouted, REFERENCES), one(Bleu(lowercase=True), shouted, REFERENCES)
    assert cased.value() < uncased.value()
    assert "case:mixed" in cased.signature
    assert "case:lc" in uncased.signature


def test_all_references_of_an_item_count_not_only_the_first() -> None:
    every, first = one(Bleu(), ANSWERS, REFERENCES), one(Bleu(), ANSWERS, [refs[:1] for refs in REFERENCES])
    assert first.value() < every.value()
    assert "nrefs:var" in every.signature
    assert "nrefs:1" in first.signature


def test_chrf_with_words_says_so_in_name_and_signature() -> None:
    plain, plus = one(Chrf(), ANSWERS, REFERENCES), one(Chrf(word_order=2), ANSWERS, REFERENCES)
    assert (plain.name, plus.name) == ("chrf", "chrf++")
    assert "nw:0" in plain.signature
    assert "nw:2" in plus.signature


BEST = {"bleu": 100.0, "chrf": 100.0, "chrf++": 100.0}
LONG = [["one two three four five"], ["six seven eight nine ten", "eleven twelve thirteen fourteen"]]


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.names()[0])
def test_an_oracle_gets_everything_and_its_opposite_nothing(scorer: Scorer) -> None:
    for metric in scorer.measure(answered([refs[-1] for refs in LONG], LONG)):
        if metric.better == "lower":
            assert metric.per_item.tolist() == [0.0, 0.0]
            continue
        assert metric.value() == pytest.approx(BEST.get(metric.name, 1.0))
        assert metric.per_item == pytest.approx([BEST.get(metric.name, 1.0)] * 2)
    # No letter of these is in any reference.
    for wrong in ("ZZZ QQQ JJJ", ""):
        for metric in scorer.measure(answered([wrong] * 2, LONG)):
            worst = 0.0 if metric.better == "higher" else 100.0
            # With two references of four and five words TER is 5 edits over 4.5 words.
            assert metric.per_item == pytest.approx([worst, worst], rel=0.2)
            assert metric.value() == pytest.approx(worst, rel=0.2)


@pytest.mark.skipif(not E2E.is_file(), reason="the E2E data is not beside the repository")
def test_on_real_references_the_numbers_are_those_of_sacrebleu_called_directly() -> None:
    by_prompt: dict[str, list[str]] = {}
    for _, row in read(Origin(source=str(E2E))):
        by_prompt.setdefault(row["mr"], []).append(row["ref"])
    several = [refs for refs in by_prompt.values() if len(refs) > 1][:100]
    answers, references = [refs[0].upper() for refs in several], [refs[1:] for refs in several]
    padded = transposed(references)
    for scorer, theirs in (
        (Bleu(lowercase=True), sacrebleu.corpus_bleu(answers, padded, lowercase=True)),
        (Bleu(), sacrebleu.corpus_bleu(answers, padded)),
        (Chrf(), sacrebleu.corpus_chrf(answers, padded)),
    ):
        assert one(scorer, answers, references).value() == pytest.approx(theirs.score, abs=1e-9)
