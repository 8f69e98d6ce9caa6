"""The share of an answer's n-grams that its context has too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.eval.scorers.grounding import Grounding
from tests.eval.measurements import answered

CONTEXT = "Context: The mill stands by the river. Question: Where is the mill?"


def support(answer: str, *, prompt: str = CONTEXT, references: tuple[str, ...] = ("r",), **settings: Any) -> float:
    (metric,) = Grounding(**settings).measure(answered([answer], [references], [prompt]))
    return metric.value()


@pytest.mark.parametrize(
    ("answer", "settings", "share"),
    [
        pytest.param("By the river!", {}, 1.0, id="an n-gram of the context; case and marks do not count"),
        pytest.param("The mill stands by the sea", {}, 3 / 4, id="three of four trigrams"),
        pytest.param("the river mill", {"ngram": 1}, 1.0, id="words alone know no order"),
        pytest.param("the river mill", {"ngram": 2}, 1 / 2, id="in a row only two are"),
        pytest.param("river", {}, 1.0, id="a short answer is one n-gram"),
        pytest.param("a lake", {}, 0.0, id="nothing of it"),
        pytest.param("...", {}, 0.0, id="no words have no support"),
        pytest.param("where is the mill", {}, 1.0, id="the question counts"),
        pytest.param("where is the mill", {"pattern": "Context:(.*?)Question"}, 0.0, id="unless the context is named"),
        pytest.param("gold and silver", {"context": "references"}, 1.0, id="references instead of the prompt"),
        pytest.param("by the river", {"context": "references"}, 0.0, id="then the prompt is none"),
        pytest.param("by the river", {"context": "both"}, 1.0, id="or either"),
    ],
)
def test_support(answer: str, settings: dict[str, Any], share: float) -> None:
    assert support(answer, references=("r", "old gold and silver"), **settings) == pytest.approx(share)


@given(
    st.lists(st.sampled_from("ab c"), max_size=12), st.lists(st.sampled_from("abc "), max_size=12), st.integers(1, 4)
)
def test_it_is_what_a_slow_count_says(answer: list[str], context: list[str], ngram: int) -> None:
    words, known = "".join(answer).split(), " ".join(["", *"".join(context).split(), ""])
    length = min(ngram, len(words))
    places = range(len(words) - length + 1) if words else []
    hits = [" " + " ".join(words[place : place + length]) + " " in known for place in places]
    expected = sum(hits) / len(hits) if hits else 0.0
    assert support("".join(answer), prompt="".join(context), ngram=ngram) == pytest.approx(expected)


def test_the_systems_turn_is_context_and_earlier_turns_are_not() -> None:
    (item,) = answered(["by the river"], [["r"]])
    context, other = {"role": "system", "content": "It stands by the river."}, {"role": "user", "content": "Where?"}
    shown = ({"role": "user", "content": "by the river?"}, {"role": "assistant", "content": "by the river"})
    for messages, share in (((context, other), 1.0), ((*shown, other), 0.0)):
        (metric,) = Grounding().measure([replace(item, messages=messages)])
        assert metric.value() == share


def test_a_prompt_without_the_context_asked_for_is_refused() -> None:
    with pytest.raises(InputError, match="finds no context"):
        support("x", prompt="no context", pattern="Context:(.*)")
