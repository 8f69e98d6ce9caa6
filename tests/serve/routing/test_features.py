"""Features come from any body of any dialect, and from nothing else; reading one never fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.routing.features import PER_TURN, SCANNED, Features, features_of, features_of_text

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def chat(content: Any, **others: Any) -> Features:
    return features_of({"messages": [{"role": "user", "content": content}], **others})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"messages": [{"role": "user", "content": "two words"}]}, id="chat"),
        pytest.param({"messages": [{"role": "user", "content": [{"type": "text", "text": "two words"}]}]}, id="parts"),
        pytest.param({"prompt": "two words"}, id="completions"),
        pytest.param({"input": "two words"}, id="responses"),
        pytest.param(
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "two words"}]}]}, id="items"
        ),
        pytest.param({"prompt": ["two words"]}, id="a list of prompts"),
    ],
)
def test_a_text_is_the_same_in_every_dialect(body: dict[str, Any]) -> None:
    assert features_of(body) == features_of_text("two words")
    assert features_of(body).readable


def test_the_text_is_the_users_and_the_length_is_of_everything() -> None:
    seen = features_of(
        {
            "messages": [
                {"role": "system", "content": "be brief " * 50},
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "answer"},
                {"role": "user", "content": "second"},
            ]
        }
    )
    assert seen.text == "first\n\nsecond"
    assert (seen.turns, seen.answers) == (2, 1)
    assert seen.characters > 450
    assert seen.prompt_tokens > features_of_text(seen.text).prompt_tokens + 50


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_answer_asked_for_takes_context(key: str) -> None:
    assert chat("hi", **{key: 300}).needed == chat("hi").needed + 300


@pytest.mark.parametrize("given", [None, "many", -5, 3.5, True])
def test_an_answer_of_no_length_takes_none(given: Any) -> None:
    assert chat("hi", max_tokens=given) == chat("hi")


def test_tools_and_schemas_are_seen_and_take_context() -> None:
    plain, tools = chat("hi"), chat("hi", tools=[TOOL, TOOL])
    assert (tools.tools, plain.tools) == (2, 0)
    assert tools.needed > plain.needed + 2 * PER_TURN
    assert chat("hi", tools=[TOOL], tool_choice="none").tools == 0
    assert chat("hi", response_format={"type": "json_schema", "json_schema": {"name": "x"}}).schema
    assert features_of({"input": "hi", "text": {"format": {"type": "json_schema"}}}).schema
    assert not chat("hi", response_format={"type": "text"}).schema


@pytest.mark.parametrize(
    ("text", "code", "mathematics"),
    [
        ("What is the capital of France?", False, False),
        ("Write a friendly note to my neighbour, please.", False, False),
        ("def add(a, b):\n    return a + b", True, None),
        ("Why does this fail?\n```\nx = 1\n```", True, None),
        ("SELECT name FROM people", True, False),
        ("Traceback (most recent call last)", True, False),
        ("Solve the equation x^2 - 4 = 0", None, True),
        (r"Show that $\sum_{i} i$ is finite", None, True),
        ("A shirt is 20 % off; how much do 3 shirts cost?", False, True),
    ],
)
def test_marks_of_code_and_mathematics(text: str, code: bool | None, mathematics: bool | None) -> None:
    seen = features_of_text(text)
    assert code is None or (seen.code > 0) is code
    assert mathematics is None or (seen.mathematics > 0) is mathematics


@pytest.mark.parametrize(
    "content",
    [
        pytest.param([IMAGE], id="an image"),
        pytest.param([{"type": "text", "text": "what is this?"}, IMAGE], id="an image with words"),
        pytest.param("", id="nothing"),
        pytest.param("  \n", id="blanks"),
        pytest.param(7, id="a number"),
    ],
)
def test_what_is_not_text_alone_cannot_be_read(content: Any) -> None:
    assert not chat(content).readable


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"prompt": [1, 2, 3]}, {"prompt": [[1], [2]]}, {"messages": "x" and 3}]
)
def test_nor_can_what_has_no_words(body: dict[str, Any]) -> None:
    assert not features_of(body).readable


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["messages", "prompt", "input", "system", "instructions", "tools", "functions", "response_format", "text", "role",
     "content", "tool_calls", "max_tokens", "tool_choice", "metadata", "user", "type", "output", "arguments"]
)  # fmt: skip
BODY = st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON, max_size=4), max_size=4), max_size=6)


@given(BODY)
def test_no_body_is_too_strange(body: dict[str, Any]) -> None:
    seen = features_of(body)
    assert seen.needed >= seen.prompt_tokens >= 0


def test_a_body_nested_deeply_is_read_too() -> None:
    deep: Any = {}
    for _ in range(1000):
        deep = {"type": "object", "properties": deep}
    assert chat("hi", tools=[deep]).tools == 1


def test_marks_are_looked_for_in_the_beginning_and_length_in_all_of_it() -> None:
    long = features_of_text("word " * (SCANNED // 5) + "```" * 10)
    assert long.code == 0
    assert features_of_text("word " * SCANNED).prompt_tokens > 4 * long.prompt_tokens
