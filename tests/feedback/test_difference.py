"""Two answers with the words that only one of them has marked; without the marks each is what it was."""

from __future__ import annotations

import random
import re
import time

from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.difference import MOST_WORDS, difference
from llmops.feedback.rendering import raw

WORDS = st.lists(st.sampled_from(["a", "b", "the", "pub", ".", "<i>", "\n", "שלום"]), max_size=30).map(" ".join)


def longest_common(one: list[str], two: list[str]) -> int:
    """Length of the longest common subsequence, by the table."""
    row = [0] * (len(two) + 1)
    for word in one:
        before = row
        row = [0]
        for place, other in enumerate(two):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[-1]))
    return row[-1]


@given(WORDS, WORDS)
def test_without_its_marks_each_side_is_its_text_and_unmarked_words_are_the_same(one: str, two: str) -> None:
    ours, theirs = difference(one, two)
    assert re.sub("</?del>", "", ours) == raw(one)
    assert re.sub("</?ins>", "", theirs) == raw(two)
    left = re.sub("<del>.*?</del>", " ", ours, flags=re.DOTALL).split()
    right = re.sub("<ins>.*?</ins>", " ", theirs, flags=re.DOTALL).split()
    assert "".join(left) == "".join(right)
    words = re.compile(r"\w+|[^\w\s]")
    assert len(words.findall("".join(left))) <= longest_common(words.findall(raw(one)), words.findall(raw(two)))


def test_only_the_words_that_differ_are_marked() -> None:
    assert difference("a cheap old pub", "a cheap new pub") == (
        "a cheap <del>old</del> pub",
        "a cheap <ins>new</ins> pub",
    )
    assert difference("same", "same") == ("same", "same")
    assert difference("", "x") == ("", "<ins>x</ins>")


def test_frequent_words_do_not_swallow_what_stands_between_them() -> None:
    text = "\n\n".join(f"Paragraph **{number}**" for number in range(200))
    ours, theirs = difference(text, text.replace("**40**", "**x**"))
    assert (re.findall("<del>(.*?)</del>", ours), re.findall("<ins>(.*?)</ins>", theirs)) == (["40"], ["x"])


def test_long_texts_of_any_kind_are_compared_in_time() -> None:
    source = random.Random(3)
    many = [source.choice("abcdefghij") for _ in range(50_000)]
    other = [source.choice("abcdefghij") for _ in range(50_000)]
    for space in (" ", "\n"):
        for length in (MOST_WORDS // 2, MOST_WORDS, 50_000):
            begun = time.process_time()
            difference(space.join(many[:length]), space.join(other[:length]))
            assert time.process_time() - begun < 2
