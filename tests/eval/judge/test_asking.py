"""A judge is asked in both orders and once more where it gives no verdict; its silence is an error, never a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmops.errors import EnvironmentFault
from llmops.eval.engines.engine import Answer, Generated
from llmops.eval.items import Item
from llmops.eval.judge.asking import Judge, Preference
from llmops.eval.judge.prompt import JudgePrompt
from llmops.eval.suite import Generation
from llmops.events import Listener, Silent
from tests.eval.judge.rubrics import PAIRWISE_PROMPT, RATING_PROMPT

Says = Callable[[Sequence[Any]], str]


class Engine:
    """Replies as it is told, and remembers what it was asked."""

    def __init__(self, says: Says) -> None:
        self.says = says
        self.asked: list[Item] = []

    def __call__(self, items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        assert len({item.id for item in items}) == len(items)
        self.asked += items
        answers = [Answer(item.id, self.says(item.messages), 3, "stop", 0.1) for item in items]
        return Generated(tuple(reversed(answers)), 1.0, {"name": "stub"})


def judge(says: Says, prompt: JudgePrompt = RATING_PROMPT) -> tuple[Judge, Engine]:
    engine = Engine(says)
    return Judge("j", prompt, Generation(max_tokens=50), engine), engine


def part(messages: Sequence[Any], name: str) -> str:
    return next(line for line in messages[0]["content"].splitlines() if line.startswith(name))[len(name) + 1 :]


def longer(messages: Sequence[Any]) -> str:
    first, second = len(part(messages, "FIRST")), len(part(messages, "SECOND"))
    return f"VERDICT: {'A' if first > second else 'B' if second > first else 'TIE'}"


def asked(number: int) -> list[tuple[dict[str, str]]]:
    return [({"role": "user", "content": f"q{place}"},) for place in range(number)]


def test_each_answer_gets_its_own_rating_and_a_question_asked_twice_is_asked_once() -> None:
    rater, engine = judge(lambda messages: f"Hm.\nVERDICT: {len(part(messages, 'ANSWER'))}")
    same = [*asked(3), asked(1)[0]]
    found = rater.rate(same, ["a", "bb", "ccc", "a"], listener=Silent())
    assert [one.verdict for one in found] == [1, 2, 3, 1]
    assert len(engine.asked) == 3


def test_a_pair_is_asked_in_both_orders_and_the_answers_are_told_apart_again() -> None:
    referee, engine = judge(longer, PAIRWISE_PROMPT)
    found = referee.prefer(
        asked(3), ["long text", "short", "even"], ["short", "a longer text", "evem"], listener=Silent()
    )
    assert [one.choice for one in found] == ["A", "B", "TIE"]
    assert not any(one.inconsistent for one in found)
    assert len(engine.asked) == 6


@pytest.mark.parametrize("always", ["A", "B"])
def test_a_judge_that_always_takes_the_same_place_gives_ties(always: str) -> None:
    referee, _ = judge(lambda messages: f"VERDICT: {always}", PAIRWISE_PROMPT)
    found = referee.prefer(asked(4), ["x"] * 4, ["y"] * 4, listener=Silent())
    assert {one.choice for one in found} == {"TIE"}
    assert all(one.inconsistent for one in found)


def test_a_pair_without_a_verdict_in_one_order_has_none() -> None:
    assert Preference("A", None).choice is None
    assert not Preference("A", None).inconsistent
    assert Preference("A", "TIE").choice == "TIE"


def test_a_reply_without_a_verdict_is_asked_again_once_with_what_is_missing() -> None:
    def learns(messages: Sequence[Any]) -> str:
        return "VERDICT: 2" if len(messages) == 3 else "It is rather poor."

    rater, engine = judge(learns)
    (found,) = rater.rate(asked(1), ["a"], listener=Silent())
    assert found.verdict == 2
    assert found.replies == ("It is rather poor.", "VERDICT: 2")
    again = engine.asked[1].messages
    assert again[1] == {"role": "assistant", "content": "It is rather poor."}
    assert "VERDICT: 1|2|3|4|5" in again[2]["content"]


def test_one_that_never_gives_a_verdict_is_left_without_after_the_second_time() -> None:
    rater, engine = judge(lambda messages: "It depends." if "ANSWER a" in messages[0]["content"] else "VERDICT: 5")
    found = rater.rate(asked(2), ["a", "b"], listener=Silent())
    assert [one.verdict for one in found] == [None, 5]
    assert len(engine.asked) == 3


def test_silence_is_an_error() -> None:
    rater, _ = judge(lambda messages: "" if "ANSWER a" in messages[0]["content"] else "VERDICT: 5")
    with pytest.raises(EnvironmentFault, match="says nothing to 1 of 2 questions"):
        rater.rate(asked(2), ["a", "b"], listener=Silent())


def test_a_judge_is_its_model_prompt_rubric_and_decoding_and_its_address_stands_in_the_signature() -> None:
    def one(**others: Any) -> Judge:
        return Judge(
            **{"model": "j", "prompt": RATING_PROMPT, "generation": Generation(), "engine": Engine(str), **others}
        )

    assert one().digest == one(where="http://elsewhere/v1").digest
    assert one().signature != one(where="http://elsewhere/v1").signature
    changed = [
        one(model="k"),
        one(source={"root": "/weights"}),
        one(generation=Generation(max_tokens=7)),
        one(prompt=JudgePrompt(RATING_PROMPT.template + "!", RATING_PROMPT.rubric)),
        one(prompt=PAIRWISE_PROMPT),
    ]
    assert len({judge.digest for judge in [one(), *changed]}) == 6
    assert len({judge.signature for judge in [one(), *changed]}) == 6
