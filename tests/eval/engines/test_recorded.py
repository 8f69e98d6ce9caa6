"""Answers made elsewhere are paired with the items by what they answer, and none is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import InputError
from llmops.eval.engines.engine import Generated
from llmops.eval.engines.recorded import Recorded
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Silent


@pytest.fixture
def items(make_item: Callable[..., Item]) -> list[Item]:
    return [make_item("q1", "a1"), make_item("q2", "a2")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def write(file: Path, *rows: Any) -> Recorded:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Recorded(file)


def ask(engine: Recorded, items: list[Item]) -> Generated:
    return engine(items, Generation(), listener=Silent())


def test_they_are_found_by_id_or_prompt_in_any_order(file: Path, items: list[Item]) -> None:
    engine = write(file, {"prompt": "q2", "answer": "two"}, "", {"id": items[0].id, "answer": "one", "tokens": 3})
    made = ask(engine, items)
    assert [(one.item, one.text) for one in made.answers] == [(items[0].id, "one"), (items[1].id, "two")]
    assert made.answers[0].tokens == 3
    assert made.engine["name"] == "recorded"


def test_a_cut_answer_stays_one(file: Path, items: list[Item]) -> None:
    engine = write(file, {"prompt": "q1", "answer": "x", "finish": "length"}, {"prompt": "q2", "answer": "y"})
    made = ask(engine, items)
    assert [one.finish for one in made.answers] == ["length", None], "what is not known is not guessed"
    assert [one.tokens for one in made.answers] == [None, None]
    assert made.kept == {item.id for item in items}


def test_dots_lead_into_nested_objects(file: Path, items: list[Item]) -> None:
    write(file, *({"in": {"q": f"q{n}"}, "6b": {"text": f"t{n}"}, "answer": "no"} for n in (1, 2)))
    made = ask(Recorded(file, prompt="in.q", answer="6b.text"), items)
    assert [one.text for one in made.answers] == ["t1", "t2"]


def test_other_answers_are_another_model_and_their_order_is_not(file: Path, items: list[Item]) -> None:
    rows = [{"prompt": "q1", "answer": "x"}, {"prompt": "q2", "answer": "y"}]
    first = write(file, *rows).digest()
    assert write(file, *reversed(rows)).digest() == first
    assert write(file, {"prompt": "q1", "answer": "z"}, rows[1]).digest() != first


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "q1", "answer": "x"}], "has no answer to 1 of 2 items, such as 'q2'"),
        ([{"prompt": "q1", "answer": "x"}, {"prompt": "q1", "answer": "y"}], ":2: a second, different answer to 'q1'"),
        (["{"], ":1 is no JSON"),
        (["[1]"], ":1 has no text under `answer`"),
        ([{"prompt": "q1", "answr": "x"}], ":1 has no text under `answer`"),
        ([{"answer": "x"}], ":1 has no text under `id` or `prompt`"),
        ([], "holds no answers"),
    ],
)
def test_what_cannot_be_paired_is_refused(file: Path, items: list[Item], rows: list[Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        ask(write(file, *rows), items)
    assert said in refused.value.problem


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, items: list[Item]) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ask(Recorded(tmp_path / "none.jsonl"), items)
