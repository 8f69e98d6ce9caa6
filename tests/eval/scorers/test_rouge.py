"""ROUGE is rouge-score's, number for number, with the best of several references."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer, lcs_ind

from llmops.eval.scorers.rouge import Rouge, common
from llmops.eval.scorers.sentences import sentences
from tests.eval.measurements import answered

E2E = Path(__file__).parents[3].parent / "shared" / "data" / "e2e" / "testset_w_refs.csv"
VARIANTS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]

# Few words, so that subsequences are many and ties between them too; odd letters, which part words.
words = st.sampled_from(["a", "b", "c", "The", "running", "flies", "ÉTÉ", "x-9", "\u212a", "…", "naïve", "\n", "\n\n"])
texts = st.one_of(st.lists(words, max_size=25).map(" ".join), st.text(max_size=30))


@given(texts, st.lists(texts, min_size=1, max_size=3), st.booleans())
@settings(max_examples=200)
def test_every_variant_is_rouge_scores_own(answer: str, references: list[str], stemmer: bool) -> None:
    theirs = RougeScorer(VARIANTS, use_stemmer=stemmer).score_multi(references, answer)
    for metric in Rouge(stemmer=stemmer).measure(answered([answer], [references])):
        assert metric.per_item[0] == pytest.approx(theirs[metric.name].fmeasure, abs=1e-12)
        assert metric.value() == metric.per_item[0]


@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=80))
def test_of_all_longest_common_subsequences_it_is_the_one_rouge_score_picks(
    first: list[int], second: list[int]
) -> None:
    assert sorted(common(first, second)) == lcs_ind(first, second)


@pytest.mark.skipif(not E2E.is_file(), reason="the E2E data is not beside the repository")
@pytest.mark.parametrize("stemmer", [False, True])
def test_on_real_texts_of_several_lines_and_references_too(stemmer: bool) -> None:
    with E2E.open(encoding="utf-8") as lines:
        texts = [row["ref"] for row in islice(csv.DictReader(lines), 400)]
    joined = ["\n".join(texts[start : start + 4]) for start in range(0, 400, 4)]
    pairs = list(zip(joined[:30], zip(joined[30:60], joined[60:90], strict=True), strict=True))
    theirs = RougeScorer(VARIANTS, use_stemmer=stemmer)
    expected = [theirs.score_multi(list(refs), answer) for answer, refs in pairs]
    found = Rouge(stemmer=stemmer).measure(answered([answer for answer, _ in pairs], [refs for _, refs in pairs]))
    for metric in found:
        assert metric.per_item == pytest.approx([one[metric.name].fmeasure for one in expected], abs=1e-12)


def test_the_score_is_the_mean_over_items() -> None:
    pairs = [("a b c", ["a b c"]), ("a", ["b", "a c"]), ("", ["x"])]
    for metric in Rouge().measure(answered([one for one, _ in pairs], [refs for _, refs in pairs])):
        alone = [RougeScorer([metric.name]).score_multi(refs, one)[metric.name].fmeasure for one, refs in pairs]
        assert metric.per_item.tolist() == alone
        assert metric.value() == pytest.approx(sum(alone) / 3, abs=1e-15)


def test_rouge_lsum_takes_each_line_as_a_sentence_and_rouge_l_does_not() -> None:
    answer, reference = "b c\na", "a\nb c"
    long, summed = Rouge(variants=["rougeL", "rougeLsum"]).measure(answered([answer], [[reference]]))
    # In one sequence the longest common part is `b c`, 2 of 3 words; line by line all words are found.
    assert long.value() == pytest.approx(2 / 3)
    assert summed.value() == pytest.approx(1.0)
    assert "split:newline" in summed.signature
    assert "split:newline" not in long.signature


def test_sentences_of_one_line_are_found_by_rule_where_asked() -> None:
    answer, reference = "B c. A.", "A. B c."
    lines, found = (
        Rouge(variants=["rougeLsum"], split=how).measure(answered([answer], [[reference]]))[0]
        for how in ("newline", "sentences")
    )
    assert [lines.value(), found.value()] == pytest.approx([2 / 3, 1.0])
    assert "split:sentences" in found.signature


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Who met J. R. R. Tolkien in the U.S. on Mon.", ["Dr. Who met J. R. R. Tolkien in the U.S. on Mon."]),
        ("It costs 3.50 a day, e.g. on Monday. Yes.", ["It costs 3.50 a day, e.g. on Monday.", "Yes."]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("first line\nsecond line\n\n", ["first line", "second line"]),
        ("Really?! (No.) 7 came.", ["Really?!", "(No.)", "7 came."]),
        ("好。不好！", ["好。", "不好！"]),
        ("", []),
    ],
)
def test_where_a_sentence_ends(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text())
def test_sentences_keep_every_letter_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_stemming_is_in_the_signature_and_joins_endings() -> None:
    plain, stemmed = (
        Rouge(variants=["rouge1"], stemmer=on).measure(answered(["running dogs"], [["run dog"]]))[0]
        for on in (False, True)
    )
    assert (plain.value(), stemmed.value()) == (0.0, 1.0)
    assert plain.signature != stemmed.signature
