"""An answer is kept for exactly what it was given to: the model, its base, the engine, the decoding and the prompt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault
from llmops.eval.cache import AnswerCache, Kept, prompt_digest
from llmops.eval.engines.engine import Answer
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from tests.eval.asking import asked, asked_halfway
from tests.killable import KILLABLE, killable
from tests.listener import Heard

MakeItem = Callable[..., Item]
GREEDY = Generation(max_tokens=8)
ENGINE = {"name": "transformers", "version": "5"}


def opened(folder: Path, *, model: str = "m", generation: Generation = GREEDY, **engine: str) -> Kept:
    return AnswerCache(folder, model).opened({**ENGINE, **engine}, generation)


def said(text: str, item: str = "i") -> Answer:
    return Answer(item, text, 3, "stop", 0.5)


# Few values of each, so that keys that differ in one thing alone are common.
KEYS = st.tuples(
    st.sampled_from("ab"),  # the model
    st.sampled_from([None, "a", "b"]),  # its base
    st.fixed_dictionaries({name: st.sampled_from("12") for name in ("name", "version", "precision", "template")}),
    st.builds(
        Generation,
        max_tokens=st.sampled_from([1, 2]),
        temperature=st.sampled_from([0.0, 0.5]),
        seed=st.sampled_from([0, 1]),
        stop=st.sampled_from([(), ("1",), ("1", "2")]),
    ),
    st.sampled_from("xy"),  # the item
    st.sampled_from([[1, 2], [1], [12]]),  # its token ids
)


@settings(max_examples=60)
@given(st.lists(KEYS, min_size=2, max_size=12))
def test_no_answer_is_ever_served_for_another_model_base_engine_decoding_or_prompt(keys: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written: dict[str, str] = {}
        for number, (model, base, engine, generation, name, ids) in enumerate(keys):
            item = Item(name, (), "", (), {})
            # Greedy answers depend on the tokens alone, drawn ones on the item's own numbers too.
            drawn = name if generation.temperature else None
            exactly = repr((model, base, sorted(engine.items()), generation, drawn, ids))
            kept = AnswerCache(Path(folder), model, base).opened(engine, generation)
            prompts = {name: prompt_digest(item, ids, generation)}
            found = kept.of([item], prompts)
            assert {answer.text for answer in found.values()} == ({written[exactly]} if exactly in written else set())
            if not found:
                written[exactly] = str(number)
                kept.add([said(str(number), name)], prompts)


def test_answers_come_back_as_they_were_with_the_id_of_the_item_that_asks(tmp_path: Path, make_item: MakeItem) -> None:
    one, two = make_item("one"), make_item("two")
    answer = Answer(one.id, 'a\n\u2028"é', 7, "length", 0.1 + 0.2)
    opened(tmp_path).add([answer], {one.id: "p"})
    found = opened(tmp_path).of([one, two], {one.id: "p", two.id: "p"})
    assert found[one.id] == answer
    assert (found[two.id].item, found[two.id].text) == (two.id, answer.text)


@pytest.mark.parametrize("cut", range(1, 90, 8))
def test_a_torn_last_line_is_passed_over_and_spoils_nothing_after_it(
    tmp_path: Path, make_item: MakeItem, cut: int
) -> None:
    first, torn, later = (make_item(name) for name in ("first", "torn", "later"))
    prompts = {item.id: item.prompt for item in (first, torn, later)}
    kept = opened(tmp_path)
    kept.add([said("1", first.id)], prompts)
    kept.add([said("2", torn.id)], prompts)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[: -1 - cut])
    opened(tmp_path).add([said("3", later.id)], prompts)
    found = opened(tmp_path).of([first, torn, later], prompts)
    assert {answer.text for answer in found.values()} == {"1", "3"}


def test_a_file_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    opened(tmp_path, model="one").add([said("1")], {"i": "p"})
    (one,) = tmp_path.glob("*.jsonl")
    opened(tmp_path, model="other")
    (other,) = set(tmp_path.glob("*.jsonl")) - {one}
    one.replace(other)
    with pytest.raises(EnvironmentFault, match="are not of this model, engine and decoding"):
        opened(tmp_path, model="other")


def test_two_processes_may_keep_answers_in_one_file(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    for number in range(20):
        one.add([said("one")], {"i": f"one {number}"})
        other.add([said("other")], {"i": f"other {number}"})
    found = opened(tmp_path)
    for name in ("one", "other"):
        for number in range(20):
            (answer,) = found.of([Item("i", (), "", (), {})], {"i": f"{name} {number}"}).values()
            assert answer.text == name


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("a file where a folder belongs")
    with pytest.raises(EnvironmentFault, match="cannot be used") as refused:
        opened(tmp_path / "answers")
    assert "--no-cache" in refused.value.fix


# A whole evaluation


@KILLABLE
def test_an_evaluation_killed_in_the_middle_goes_on_where_it_stopped(lively_model: Path, tmp_path: Path) -> None:
    whole = asked(lively_model, tmp_path / "whole", Heard())
    here, there = Pipe()
    killed = killable(asked_halfway, lively_model, tmp_path / "kept", there)
    while here.recv() != ("answers", 4, 8):
        pass
    killed.kill()
    killed.join()
    heard = Heard()
    went_on = asked(lively_model, tmp_path / "kept", heard)
    assert any("4 of 8 answers come from the cache" in line for line in heard.lines)
    assert [one for one in heard.advances if one[0] == "answers"] == [("answers", 2, 4), ("answers", 4, 4)]
    assert went_on == whole
