"""Items are named by what is asked; rows that ask the same are one item with all their references."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.config import load
from llmops.data.section import Origin
from llmops.errors import InputError
from llmops.eval.items import Item, Read, items_of, prompts, suite_digest
from llmops.eval.suite import Suite
from llmops.files import digest_of

E2E = Path(__file__).parents[2].parent / "shared" / "data" / "e2e"
SHIPPED = Path(__file__).parents[2] / "eval" / "suites" / "e2e.yaml"


def reading(rows: Sequence[Mapping[str, Any]]) -> Read:
    """A source that is these rows, from line 2 like a csv file."""

    def read(origin: Origin) -> Iterator[tuple[int, dict[str, Any]]]:
        return iter([(line, dict(row)) for line, row in enumerate(rows, start=2)])

    return read


def suite(scorers: Sequence[dict[str, Any]] = ({"bleu": {}},), generation: Any = None, **items: Any) -> Suite:
    kind = {} if "messages" in items else {"prompt": "{q}", "references": "{a}"}
    given = {"source": "s.csv", **kind, **items}
    return Suite.model_validate(
        {"name": "s", "items": given, "scorers": list(scorers), "generation": generation or {}},
    )


def test_rows_with_one_prompt_are_one_item_with_their_references_in_order() -> None:
    rows = [{"q": "x", "a": "1"}, {"q": "y", "a": "2"}, {"q": "x", "a": "3"}, {"q": "x", "a": "1"}]
    first, second = items_of(suite(), reading(rows))
    assert (first.prompt, first.references) == ("x", ("1", "3", "1"))
    assert (second.prompt, second.references) == ("y", ("2",))
    assert first.messages == ({"role": "user", "content": "x"},)


def test_the_id_is_the_digest_of_the_conversation_and_of_nothing_else() -> None:
    (item,) = items_of(suite(), reading([{"q": "x", "a": "1"}]))
    assert item.id == digest_of([{"role": "user", "content": "x"}])
    (other,) = items_of(suite(references="{b}", slices={"n": "c"}), reading([{"q": "x", "b": "2", "c": "3"}]))
    assert other.id == item.id
    (with_system,) = items_of(suite(system="Be {mood}."), reading([{"q": "x", "a": "1", "mood": "brief"}]))
    assert with_system.id != item.id
    assert with_system.messages[0] == {"role": "system", "content": "Be brief."}


def test_line_ends_are_those_of_training() -> None:
    (item,) = items_of(suite(), reading([{"q": "a\r\nb", "a": "c\rd"}]))
    assert (item.prompt, item.references) == ("a\nb", ("c\nd",))


def test_references_come_from_several_columns_or_from_a_list() -> None:
    rows = [{"q": "x", "a": "1", "b": "2"}]
    assert items_of(suite(references=["{a}", "so {b}"]), reading(rows))[0].references == ("1", "so 2")
    assert items_of(suite(), reading([{"q": "x", "a": ["1", "2"]}]))[0].references == ("1", "2")


def test_a_conversation_is_answered_at_its_end() -> None:
    turns = [
        {"role": "user", "content": "a", "name": None},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    (item,) = items_of(suite(messages="m", references="{a}"), reading([{"m": turns, "a": "d"}]))
    assert [turn["content"] for turn in item.messages] == ["a", "b", "c"]
    assert (item.prompt, item.references) == ("a\n\nc", ("d",))
    ended = [{"m": json.dumps([*turns, {"role": "assistant", "content": "d"}])}]
    (same,) = items_of(suite(messages="m"), reading(ended))
    assert same == item


SOLVED = [{"q": f"q{number}", "a": f"a{number}"} for number in range(9)]


def shown_to(rows: list[dict[str, str]], **few_shot: Any) -> list[Item]:
    def read(origin: Origin) -> Iterator[tuple[int, dict[str, Any]]]:
        return reading(SOLVED if origin.source == "train.csv" else rows)(origin)

    return items_of(suite(few_shot={"source": "train.csv", **few_shot}, system="be brief {q}"), read)


def test_solved_examples_are_earlier_turns_the_same_for_every_item() -> None:
    first, second = shown_to([{"q": "x", "a": "1"}, {"q": "y", "a": "2"}], count=3)
    roles = [turn["role"] for turn in first.messages]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]
    assert first.messages[0]["content"] == "be brief x"
    assert first.messages[1:-1] == second.messages[1:-1]
    pairs = [turn["content"] for turn in first.messages[1:-1]]
    assert {(one["q"], one["a"]) for one in SOLVED} >= set(zip(pairs[::2], pairs[1::2], strict=True))
    assert (first.prompt, first.id) == ("x", digest_of(list(first.messages)))


def test_no_item_is_shown_its_own_answer() -> None:
    items = shown_to(SOLVED, count=4)
    for item in items:
        shown = [turn["content"] for turn in item.messages[1:-1:2]]
        assert len(set(shown)) == 4
        assert item.prompt not in shown


def test_examples_come_from_elsewhere_and_there_must_be_enough() -> None:
    with pytest.raises(InputError, match=r"train\.csv has 9 examples, 10 are to be shown"):
        shown_to([{"q": "x", "a": "1"}], count=10)
    with pytest.raises(ValueError, match="whose answers would be shown"):
        suite(few_shot={"source": "s.csv"})
    suite(source="hub:a/b", few_shot={"source": "hub:a/b", "split": "validation"})


def test_slices_are_columns_or_patterns_on_the_prompt_and_may_be_absent() -> None:
    rows: list[dict[str, Any]] = [{"q": "kids[yes] z", "a": "1", "city": "Ulm"}, {"q": "z", "a": "2", "city": None}]
    first, second = items_of(suite(slices={"kids": r"kids\[(\w+)\]", "city": "city"}), reading(rows))
    assert first.slices == {"kids": "yes", "city": "Ulm"}
    assert second.slices == {}


@pytest.mark.parametrize(
    ("items", "rows", "says"),
    [
        pytest.param({}, [{"q": "x", "b": "1"}], "s.csv:2: there is no column `a`", id="no column of references"),
        pytest.param({"prompt": "{qq}"}, [{"q": "x", "a": "1"}], "`qq`; did you mean `q`?", id="no column of prompts"),
        pytest.param({"slices": {"c": "city"}}, [{"q": "x", "a": "1"}], "no column `city`", id="no column of slices"),
        pytest.param({}, [{"q": "x", "a": "1"}, {"q": "y", "a": " "}], "s.csv:3: a reference is empty", id="empty"),
        pytest.param({}, [{"q": "x", "a": None}], "s.csv:2: column `a` is empty", id="a reference that is null"),
        pytest.param({}, [{"q": "x", "a": []}], "an empty list", id="a list without references"),
        pytest.param({}, [{"q": "", "a": "1"}], "the prompt is empty", id="an empty prompt"),
        pytest.param({}, [], "has no rows", id="no rows"),
        pytest.param({"messages": "m"}, [{"m": [{"role": "user", "content": "x"}]}], "not of the assistant", id="open"),
        pytest.param(
            {"messages": "m", "references": "{a}"},
            [{"m": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "a": "z"}],
            "ends with the assistant's turn",
            id="nothing left to answer",
        ),
        pytest.param({"messages": "m", "references": "{a}"}, [{"m": "[", "a": "z"}], "not JSON", id="no JSON"),
        pytest.param({"messages": "m", "references": "{a}"}, [{"m": 3, "a": "z"}], "`m` is no list", id="no turns"),
        pytest.param(
            {"slices": {"c": "c"}},
            [{"q": "x", "a": "1", "c": "u"}, {"q": "x", "a": "2", "c": "v"}],
            "slice c is 'v' here and 'u' in an earlier row",
            id="slices that contradict each other",
        ),
    ],
)
def test_a_row_that_cannot_be_an_item_is_named(items: dict[str, Any], rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InputError) as caught:
        items_of(suite(**items), reading(rows))
    assert says in caught.value.problem


texts = st.text(alphabet="abcxyz ", min_size=1).filter(str.strip)


@given(st.lists(texts, min_size=1, max_size=12), st.integers(1, 12), st.randoms())
def test_a_limit_takes_the_same_items_whatever_their_order_and_a_larger_one_only_adds(
    questions: list[str], limit: int, order: Any
) -> None:
    rows = [{"q": question, "a": "1"} for question in questions]
    taken = {item.id for item in items_of(suite(limit=limit), reading(rows))}
    assert len(taken) == min(limit, len(set(questions)))
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert {item.id for item in items_of(suite(limit=limit), reading(shuffled))} == taken
    assert taken <= {item.id for item in items_of(suite(limit=limit + 1), reading(rows))}


def test_prompts_are_all_of_them_whatever_the_limit() -> None:
    rows = [{"q": question, "a": "1"} for question in ("x", "y", "x", "z")]
    assert prompts(suite(limit=1), reading(rows)) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("changed", "rows", "same"),
    [
        pytest.param(suite(), [{"q": "y", "a": "2"}, {"q": "x", "a": "1"}], True, id="order does not"),
        pytest.param(suite(slices={"n": "q"}), None, True, id="slices do not"),
        pytest.param(suite(scorers=[{"bleu": {"lowercase": True}}]), None, False, id="scorers do"),
        pytest.param(suite(scorers=[{"bleu": {"lowercase": False}}]), None, True, id="a default written out does not"),
        pytest.param(suite(generation={"max_tokens": 7}), None, False, id="decoding does"),
        pytest.param(suite(), [{"q": "x", "a": "1"}, {"q": "y", "a": "3"}], False, id="a reference does"),
        pytest.param(suite(limit=1), None, False, id="a limit does"),
    ],
)
def test_what_changes_a_suites_digest(changed: Suite, rows: list[dict[str, Any]] | None, same: bool) -> None:
    before = [{"q": "x", "a": "1"}, {"q": "y", "a": "2"}]
    digest = suite_digest(suite(), items_of(suite(), reading(before)))
    again = suite_digest(changed, items_of(changed, reading(rows or before)))
    assert (again == digest) is same


@pytest.mark.skipif(not E2E.is_dir(), reason="the E2E data is not beside the repository")
def test_the_e2e_test_set_is_630_items_with_4693_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2E", str(E2E))
    items: list[Item] = items_of(load(SHIPPED, Suite, what="suite"))
    assert len(items) == 630
    assert sum(len(item.references) for item in items) == 4693
    assert {item.slices.get("family") for item in items} == {"yes", "no", None}
