"""What is called a duplicate is one, by the definition computed the slow way."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.dedup import Duplicates, NearDuplicates, grams, jaccard, shingles, words


def slow_shingles(text: str) -> set[tuple[str, ...]]:
    of = words(text)
    return {tuple(of[first : first + 5]) for first in range(len(of) - 4)} if len(of) >= 5 else {tuple(of)}


def near(texts: list[str], similarity: float) -> list[int | None]:
    finder = NearDuplicates(similarity, text_of=texts.__getitem__)
    return [finder.first(text, at) for at, text in enumerate(texts)]


def test_words_ignore_case_composition_and_punctuation_around_them() -> None:
    assert words('"Café, it\'s 3.5 (euros)!" — ') == ["café", "it's", "3.5", "euros"]
    assert words("cafe\u0301") == words("CAFÉ")
    assert words("東京へ行く now") == ["東", "京", "へ", "行", "く", "now"]


@given(st.lists(st.sampled_from("abcde"), max_size=12), st.integers(1, 6))
def test_grams_are_one_hash_for_each_distinct_run(of: list[str], length: int) -> None:
    runs = {tuple(of[first : first + length]) for first in range(len(of) - length + 1)}
    assert len(grams(of, length)) == len(runs)


@given(st.text("ab .", max_size=30), st.text("ab .", max_size=30))
def test_similarity_is_that_of_the_sets_of_runs(one: str, other: str) -> None:
    slow_one, slow_other = slow_shingles(one), slow_shingles(other)
    assert jaccard(shingles(one), shingles(other)) == len(slow_one & slow_other) / len(slow_one | slow_other)


def test_short_texts_are_near_only_when_all_their_words_are_equal() -> None:
    assert near(["Capital of France?", "Capital of Spain?", "capital of france"], 0.5) == [None, None, 0]


@given(st.lists(st.text("aAbé \n\t", max_size=6), max_size=20))
def test_exact_duplicates_equal_a_slow_loop(texts: list[str]) -> None:
    finder = Duplicates()
    found = [finder.first(text, at) for at, text in enumerate(texts)]

    def same(text: str) -> str:
        return " ".join(unicodedata.normalize("NFC", text).casefold().split())

    slow = [next((b for b in range(at) if same(texts[b]) == same(text)), None) for at, text in enumerate(texts)]
    assert found == slow


vocabulary = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far"])
sentences = st.lists(vocabulary, min_size=5, max_size=14).map(" ".join)


@settings(max_examples=40)
@given(st.lists(sentences, max_size=12), st.sampled_from([0.3, 0.6, 0.9]))
def test_what_is_called_near_is_as_near_as_asked_by_the_slow_way(texts: list[str], similarity: float) -> None:
    for at, first in enumerate(near(texts, similarity)):
        if first is not None:
            one, other = slow_shingles(texts[at]), slow_shingles(texts[first])
            assert first < at
            assert len(one & other) / len(one | other) >= similarity


def test_near_duplicates_equal_a_slow_loop_on_texts_well_above_or_below_the_limit() -> None:
    long = [" ".join(f"w{family}x{n}" for n in range(60)) for family in range(12)]
    texts = [*long, *(text + " extra" for text in long), *(text.replace("x3", "y3", 1) for text in long)]
    slow = []
    remembered: list[int] = []
    for at, text in enumerate(texts):
        alike = (b for b in remembered if jaccard(shingles(texts[b]), shingles(text)) >= 0.8)
        first = next(alike, None)
        if first is None:
            remembered.append(at)
        slow.append(first)
    assert near(texts, 0.8) == slow
    assert slow.count(None) == 12


def test_a_true_duplicate_is_found_among_many_that_are_nearly_near() -> None:
    common = " ".join(f"c{n}" for n in range(60))
    texts = [f"{common} {' '.join(f'u{row}v{n}' for n in range(10))}" for row in range(80)]  # 0.75 alike
    assert near([*texts, texts[57] + " more"], 0.8) == [None] * 80 + [57]


def test_the_same_texts_give_the_same_answer_each_time() -> None:
    texts = [f"one two three four five six {n % 3} seven eight nine ten" for n in range(9)]
    assert near(texts, 0.3) == near(texts, 0.3)
