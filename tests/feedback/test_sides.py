"""What a rater said of positions is said of the answers that stood there; names stay hidden."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.sides import agrees, as_shown, by_place, masked, masked_message


@st.composite
def verdicts(draw: st.DrawFn) -> tuple[dict[str, Any], list[int]]:
    n = draw(st.integers(2, 5))
    shown = draw(st.permutations(range(n)))
    kind = draw(st.sampled_from(["rating", "ranking"]))
    if kind == "rating":
        return {"kind": kind, "scores": draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))}, shown
    order, cut = draw(st.permutations(range(n))), draw(st.integers(0, n))
    groups = [sorted(order[:1]), sorted(order[1:cut])] if cut > 1 else [[order[0]]]
    rest = sorted(set(range(n)) - {one for group in groups for one in group})
    return {"kind": kind, "groups": groups, "invalid": rest}, shown


@given(verdicts())
def test_there_and_back_is_the_same(both: tuple[dict[str, Any], list[int]]) -> None:
    verdict, shown = both
    assert as_shown(by_place(verdict, shown), shown) == verdict


@given(verdicts())
def test_each_answer_keeps_what_was_said_of_it(both: tuple[dict[str, Any], list[int]]) -> None:
    verdict, shown = both
    moved = by_place(verdict, shown)
    for position, place in enumerate(shown):
        if verdict["kind"] == "rating":
            assert moved["scores"][place] == verdict["scores"][position]
        else:
            assert (place in moved["invalid"]) == (position in verdict["invalid"])
            for before, after in zip(verdict["groups"], moved["groups"], strict=True):
                assert (place in after) == (position in before)


def test_the_first_of_a_swapped_pair_is_the_second_answer() -> None:
    said = {"kind": "pairwise", "step": 3, "both_bad": False}
    assert by_place(said, [1, 0])["step"] == -3
    assert by_place(said, [0, 1])["step"] == 3
    both_bad = {"kind": "pairwise", "step": None, "both_bad": True}
    assert by_place(both_bad, [1, 0]) == both_bad


@pytest.mark.parametrize(
    ("expected", "said", "result"),
    [
        ({"kind": "pairwise", "step": 3}, {"kind": "pairwise", "step": 1}, True),
        ({"kind": "pairwise", "step": 3}, {"kind": "pairwise", "step": -1}, False),
        ({"kind": "pairwise", "step": 0}, {"kind": "pairwise", "step": None}, False),
        ({"kind": "pairwise", "step": None}, {"kind": "pairwise", "step": None}, True),
        ({"kind": "rating", "scores": [1, 5]}, {"kind": "rating", "scores": [1, 5]}, True),
        ({"kind": "rating", "scores": [1, 5]}, {"kind": "rating", "scores": [5, 1]}, False),
        (
            {"kind": "ranking", "groups": [[0], [2, 1]]},
            {"kind": "ranking", "groups": [[0], [1, 2]], "invalid": []},
            True,
        ),
        ({"kind": "ranking", "groups": [[0], [1]]}, {"kind": "ranking", "groups": [[1], [0]], "invalid": []}, False),
        ({"kind": "thumbs", "up": True}, {"kind": "thumbs", "up": False}, False),
        ({"kind": "correction", "text": "right"}, {"kind": "correction", "text": "also right"}, True),
        ({"kind": "correction", "text": None}, {"kind": "correction", "text": "changed"}, False),
        ({"kind": "thumbs", "up": True}, {"kind": "pairwise", "step": 0}, None),
    ],
)
def test_whether_a_verdict_is_the_expected_one(
    expected: dict[str, Any], said: dict[str, Any], result: bool | None
) -> None:
    assert agrees(expected, said) is result


def test_masks_are_of_one_length() -> None:
    assert masked("I am GPT-5, she is Claude.", [r"GPT-\d", "Claude"]) == "I am ▒▒▒, she is ▒▒▒."


def test_messages_are_masked_whole_or_in_parts() -> None:
    patterns = ["Claude"]
    assert masked_message({"role": "assistant", "content": "Claude here"}, patterns)["content"] == "▒▒▒ here"
    parts = [{"type": "text", "text": "Claude"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert masked_message({"role": "user", "content": parts}, patterns)["content"] == [
        {"type": "text", "text": "▒▒▒"},
        parts[1],
    ]
    assert masked_message({"role": "assistant", "content": None}, patterns) == {"role": "assistant", "content": None}
