"""Answers made elsewhere are paired by id or by prompt, all of them, each once, or the file is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import InputError
from llmops.eval.engines.engine import Answer
from llmops.eval.engines.recorded import RecordedAnswers, recorded
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Silent

MakeItem = Callable[..., Item]


@pytest.fixture
def items(make_item: MakeItem) -> list[Item]:
    return [make_item(f"question {number}") for number in range(6)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(*rows: Mapping[str, Any] | str) -> Path:
        file = tmp_path / "answers.jsonl"
        file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return file

    return to_file


def texts(found: RecordedAnswers, items: list[Item]) -> list[str]:
    return [answer.text for answer in found(items, Generation(), listener=Silent()).answers]


def test_answers_are_paired_by_id_or_by_prompt_whatever_their_order(
    items: list[Item], write: Callable[..., Path]
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": item.id, "answer": f"to {item.prompt}"}
        if number % 2
        else {"prompt": item.prompt, "answer": f"to {item.prompt}"}
        for number, item in enumerate(items)
    ]
    wanted = [f"to {item.prompt}" for item in items]
    first = recorded(write(*rows), items)
    assert texts(first, items) == wanted
    random.Random(2).shuffle(rows)
    again = recorded(write(*rows), items)
    assert texts(again, items) == wanted
    assert again.digest == first.digest
    other = recorded(write(*rows[1:], {**rows[0], "answer": "another"}), items)
    assert other.digest != first.digest


def test_what_the_file_says_of_an_answer_is_kept_and_the_rest_is_not_known(
    items: list[Item], write: Callable[..., Path]
) -> None:
    one, two = items[:2]
    file = write(
        {"prompt": one.prompt, "out": "a", "tokens": 3, "finish": "length", "seconds": 0.25, "answer": "no"},
        {"prompt": two.prompt, "out": ""},
    )
    made = recorded(file, [one, two], column="out")([one, two], Generation(), listener=Silent())
    assert made.answers == (Answer(one.id, "a", 3, "length", 0.25), Answer(two.id, "", None, None, None))
    assert made.kept == {one.id, two.id}


def test_a_part_of_the_items_can_be_judged_from_the_file_of_all(items: list[Item], write: Callable[..., Path]) -> None:
    file = write(*({"prompt": item.prompt, "answer": item.prompt} for item in items))
    found = recorded(file, items[2:3], among=items)
    assert texts(found, items[2:3]) == ["question 2"]


def test_a_prompt_that_stands_in_two_conversations_is_named_by_id(write: Callable[..., Path]) -> None:
    turn = {"role": "user", "content": "q"}
    plain = Item("a" * 64, (turn,), "q", ("r",), {})
    kind = Item("b" * 64, ({"role": "system", "content": "Be kind."}, turn), "q", ("r",), {})
    with pytest.raises(InputError, match=r"answers\.jsonl:1: 2 conversations have the prompt 'q'") as refused:
        recorded(write({"prompt": "q", "answer": "x"}), [plain, kind])
    assert "by `id`" in refused.value.fix
    found = recorded(write({"id": kind.id, "answer": "k"}, {"id": plain.id, "answer": "p"}), [plain, kind])
    assert texts(found, [plain, kind]) == ["p", "k"]


def good(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "answer": "x"}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        pytest.param([], r"answers\.jsonl is empty", id="empty"),
        pytest.param(["", " "], "has no rows", id="blank lines"),
        pytest.param(
            [good(0)],
            "has no answer to 5 of 6 items, such as 'question 1', 'question 2', 'question 3'\n",
            id="missing",
        ),
        pytest.param(
            [*map(good, range(6)), {"id": "f00", "answer": "x"}, {"prompt": "Question 1", "answer": "x"}],
            "2 of 8 answers are to items that the suite does not have .line 7: id 'f00'; line 8: prompt 'Question 1'.",
            id="unknown",
        ),
        pytest.param([*map(good, range(6)), good(2)], "lines 3 and 7 both answer the prompt 'question 2'", id="twice"),
        pytest.param([good(0), "{'prompt': 1}"], "line 2: not JSON", id="no JSON"),
        pytest.param([good(0), "[1]"], "line 2: a list, where an object", id="no object"),
        pytest.param([good(0), {"answer": "x"}], "line 2: prompt: neither `id` nor `prompt`", id="no key"),
        pytest.param([{"prompt": 3, "answer": "x"}], "line 1: prompt: must be text", id="a key that is no text"),
        pytest.param([{"prompt": "q", "anwser": "x"}], "did you mean `anwser`", id="no answer"),
        pytest.param([{"prompt": "q", "answer": None}], r"line 1: answer: must be text.*got None", id="null"),
        pytest.param([{**good(0), "tokens": 1.5}], "line 1: tokens: must be a whole number", id="tokens"),
        pytest.param([{**good(0), "finish": "eos"}], "line 1: finish: must be stop or length", id="finish"),
        pytest.param([{**good(0), "seconds": -1}], "line 1: seconds: must be a number from 0", id="seconds"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused_and_the_rows_are_named(
    items: list[Item], write: Callable[..., Path], rows: list[Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        recorded(write(*rows), items)


def test_a_file_that_is_not_there_is_named(items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*nowhere"):
        recorded(tmp_path / "nowhere.jsonl", items)


def test_many_faults_are_counted_and_some_named(items: list[Item], write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="and 90 more"):
        recorded(write(*({"prompt": "q"} for _ in range(100))), items)
