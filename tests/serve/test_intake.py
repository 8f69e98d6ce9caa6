"""A body is read within its limits of size and time, and its head tells what will be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from llmops.serve.intake import Left, Message, Receive, read_body, read_request
from llmops.serve.refusal import Refusal
from llmops.serve.settings import Limits


def parts(*given: Message | None) -> Receive:
    """What comes in, message by message; None: nothing any more."""
    left = list(given)

    async def receive() -> Message:
        message = left.pop(0)
        if message is None:
            await asyncio.sleep(60)
        assert message is not None
        return message

    return receive


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def body(receive: Receive, **limits: Any) -> bytes:
    return asyncio.run(read_body(receive, Limits.model_validate(limits)))


def test_a_body_may_come_in_parts() -> None:
    assert body(parts(part(b"ab", more=True), part(b"", more=True), part(b"c", more=False))) == b"abc"
    assert body(parts(part(b"", more=False))) == b""


@pytest.mark.parametrize(
    "given", [[part(b"x" * 2001, more=False)], [part(b"x" * 1500, more=True), part(b"x" * 600, more=True), None]]
)
def test_one_that_is_too_large_is_refused_as_soon_as_that_is_seen(given: list[Message | None]) -> None:
    with pytest.raises(Refusal) as refused:
        body(parts(*given), body_mb=0.002)
    assert refused.value.status == 413


def test_one_that_does_not_come_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        body(parts(part(b"x", more=True), None), body_s=0.05)
    assert (refused.value.status, refused.value.close) == (408, True)


@pytest.mark.parametrize("before", [[], [part(b"x", more=True)]])
def test_one_who_leaves_meanwhile_is_not_answered(before: list[Message]) -> None:
    with pytest.raises(Left):
        body(parts(*before, {"type": "http.disconnect"}))


@pytest.mark.parametrize(
    ("said", "choices"),
    [
        ({}, 1),
        ({"n": None}, 1),
        ({"n": 3}, 3),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]]}, 2),
    ],
)
def test_it_is_known_how_many_answers_will_come(said: dict[str, Any], choices: int) -> None:
    asked = read_request("/v1/completions", orjson.dumps({"model": "m", "prompt": "a", **said}))
    assert asked.choices == choices


def test_what_it_may_take_is_its_length_and_what_it_allows() -> None:
    raw = orjson.dumps({"model": "m", "prompt": "a" * 400, "max_tokens": 50, "n": 2})
    assert read_request("/v1/completions", raw).tokens() == len(raw) // 4 + 100
