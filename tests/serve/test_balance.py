"""Conversations stay with their replica unless it has too much to do; without one the least loaded is taken."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.balance import BOUND, beginning_of, chosen
from llmops.serve.targets import Target
from tests.serve.gateways import target


def replicas(*in_flight: int) -> list[Target]:
    made = [target("e", f"http://h:{number}", number) for number in range(len(in_flight))]
    for one, count in zip(made, in_flight, strict=True):
        one.replica.in_flight = count
    return made


def number(targets: list[Target], key: bytes | None) -> int:
    return chosen(targets, lambda: key).replica.number


def test_without_a_conversation_the_least_loaded_is_taken() -> None:
    assert number(replicas(3, 1, 2), None) == 1
    assert number(replicas(1, 1, 1), None) == 0


def test_one_conversation_goes_to_one_replica_and_many_to_all_alike() -> None:
    idle = replicas(0, 0, 0, 0)
    counted = Counter(number(idle, f"talk {n}".encode()) for n in range(4000))
    # Binomial: 1000 ± 5 standard deviations of 27.
    assert all(abs(count - 1000) < 137 for count in counted.values())
    assert len({number(idle, b"talk") for _ in range(10)}) == 1


def test_when_a_replica_goes_only_its_own_conversations_move() -> None:
    four = replicas(0, 0, 0, 0)
    three = [one for one in four if one.replica.number != 2]
    for n in range(500):
        before = number(four, b"%d" % n)
        assert before == 2 or number(three, b"%d" % n) == before


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.binary(max_size=8))
def test_none_gets_much_more_than_the_mean(in_flight: list[int], key: bytes) -> None:
    got = chosen(replicas(*in_flight), lambda: key)
    most = math.ceil(BOUND * (sum(in_flight) + 1) / len(in_flight))
    assert got.replica.in_flight + 1 <= most or len(in_flight) == 1


USER = {"role": "user", "content": "a question"}


@pytest.mark.parametrize(
    "later",
    [
        [USER],
        [USER, {"role": "assistant", "content": "an answer"}],
        [USER, {"role": "assistant", "content": "an answer"}, {"role": "user", "content": "another"}],
    ],
)
def test_all_turns_of_a_conversation_begin_alike(later: list[Any]) -> None:
    system = {"role": "system", "content": "be kind"}
    assert beginning_of({"messages": [system, *later]}) == beginning_of({"messages": [system, USER]})
    # One system prompt for all is not one conversation.
    other = {"role": "user", "content": "something else"}
    assert beginning_of({"messages": [system, other]}) != beginning_of({"messages": [system, USER]})


def test_a_prompt_or_an_input_is_its_own_beginning() -> None:
    assert (
        beginning_of({"prompt": "x" * 10_000}) == beginning_of({"prompt": "x" * 9_000}) != beginning_of({"input": "y"})
    )
    assert beginning_of({}) is beginning_of({"prompt": ""}) is None
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    assert beginning_of({"prompt": deep}) is not None
