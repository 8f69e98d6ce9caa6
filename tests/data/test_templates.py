"""A template says of a row what its cells say, and never 'None'."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.section import MessageRows, PreferenceRows, PromptRows, Rows
from llmops.data.templates import UnusableCell, columns_in, fill, missing_columns, needed_columns
from llmops.errors import InputError


def test_columns_are_put_in_and_doubled_braces_are_braces() -> None:
    assert fill('{{"q": "{a b}"}} {c.d}!', {"a b": "x", "c.d": "y"}) == '{"q": "x"} y!'
    assert columns_in("{a} {{b}} {c} {a}") == ("a", "c")


names = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.text(), names), max_size=4), st.data())
def test_filling_is_the_same_as_joining_the_pieces(pieces: list[tuple[str, str]], data: st.DataObject) -> None:
    cells = {name: data.draw(st.text()) for _, name in pieces}
    template = "".join(text.replace("{", "{{").replace("}", "}}") + "{" + name + "}" for text, name in pieces)
    assert fill(template, cells) == "".join(text + cells[name] for text, name in pieces)


def test_braces_inside_a_cell_are_not_read_as_columns() -> None:
    assert fill("{a}", {"a": "{b} {{", "b": "no"}) == "{b} {{"


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{a}}", "{a {b}}"])
def test_a_single_brace_is_an_error_that_says_how_to_write_it(template: str) -> None:
    with pytest.raises(InputError, match="single") as caught:
        columns_in(template)
    assert "{{" in caught.value.fix


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (0.5, "0.5"), (Decimal("1.10"), "1.10"), ("", "")])
def test_numbers_are_written_out(value: object, text: str) -> None:
    assert fill("{a}", {"a": value}) == text


@pytest.mark.parametrize("value", [None, True, float("nan"), float("inf"), [], {}, b"x"])
def test_a_cell_that_is_no_text_is_refused_by_the_name_of_its_column(value: object) -> None:
    with pytest.raises(UnusableCell, match="`a`"):
        fill("x {a}", {"a": value})


def test_a_missing_cell_is_refused() -> None:
    with pytest.raises(UnusableCell, match="`b` is missing"):
        fill("{b}", {"a": "x"})


def test_each_kind_of_rows_needs_the_columns_its_keys_name() -> None:
    prompt = PromptRows(source="s", system="{s}", prompt="{p} {q}", completion="{c}")
    assert needed_columns(prompt) == {"s": "system", "p": "prompt", "q": "prompt", "c": "completion"}
    assert needed_columns(MessageRows(source="s", messages="m", tools="t")) == {"m": "messages", "t": "tools"}
    pair = PreferenceRows(source="s", prompt="{p}", chosen="{c}", rejected="{r}")
    assert needed_columns(pair) == {"p": "prompt", "c": "chosen", "r": "rejected"}


def test_an_answer_without_a_column_is_refused_with_the_braces_it_lacks() -> None:
    rows: Rows = PromptRows(source="s", prompt="{mr}", completion="ref")
    with pytest.raises(InputError, match="same answer") as caught:
        needed_columns(rows)
    assert "{ref}" in caught.value.fix


def test_missing_columns_are_named_with_the_nearest_and_all_there_are() -> None:
    rows: Rows = PromptRows(source="s.csv", prompt="{promt}", completion="{ref}")
    problem = missing_columns(rows, ["prompt", "ref"])
    assert problem is not None
    assert "`promt`" in problem
    assert "did you mean `prompt`" in problem
    assert "its columns are: prompt, ref" in problem
    assert missing_columns(rows, ["promt", "ref"]) is None
