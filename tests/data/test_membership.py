"""A row is found in every dataset version that holds it, by its id, its words or its content, and in no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.membership import ids_in, places, with_id, with_ids, with_text
from llmops.data.section import DataSection
from llmops.data.versions import prepare, rows_of
from llmops.errors import InputError
from llmops.files import ordered_json
from llmops.records import DatasetVersion


def talk(said: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": answer, **more}]}


CALL = {"id": "abcdef123", "type": "function", "function": {"name": "f", "arguments": {"q": "inside a call"}}}
TALKS = [talk('say "hi"\nplease \\ ß'), talk("second"), talk("calls", "", tool_calls=[CALL])]


@pytest.fixture
def version(tmp_path: Path) -> DatasetVersion:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in TALKS))
    section = DataSection.model_validate({"train": [{"source": str(tmp_path / "rows.jsonl"), "messages": "messages"}]})
    return prepare(section, objects=tmp_path / "objects", cache=tmp_path / "cache")


def test_each_row_by_the_start_of_its_id(version: DatasetVersion) -> None:
    objects = version.folder.parent
    for row in rows_of(version, "train"):
        for digits in (6, 20, 64):
            (place,) = places(objects, with_id(row.id[:digits].upper()))
            assert (place.id, place.line, place.version) == (row.id, row.line, version.digest[:16])


def test_an_id_inside_the_content_is_not_the_rows(version: DatasetVersion) -> None:
    assert list(places(version.folder.parent, with_id("abcdef123"))) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('"hi"\nplease', [1]),
        ("please \\ ß", [1]),
        ("inside a call", [3]),
        ("yes", [1, 2]),
        ("assistant", [1, 2, 3]),  # a role is content too
        ("arguments", []),  # a key is not
        ("source", []),
    ],
)
def test_by_words_as_they_were_written(version: DatasetVersion, text: str, lines: list[int]) -> None:
    assert [place.line for place in places(version.folder.parent, with_text(text))] == lines


def test_rows_of_a_file_in_either_form(version: DatasetVersion, tmp_path: Path) -> None:
    rows = list(rows_of(version, "train"))
    whole = {"id": "not looked at", "content": dict(rows[1].content)}
    content = {**rows[0].content, "a column nobody reads": 1}
    (tmp_path / "asked.jsonl").write_text(json.dumps(content) + "\n\n" + json.dumps(whole) + "\n")
    ids = ids_in(tmp_path / "asked.jsonl")
    assert ids == [rows[0].id, rows[1].id]
    assert [place.line for place in places(version.folder.parent, with_ids(ids))] == [1, 2]


@pytest.mark.parametrize("written", ["", "{", "[1]", '{"prompt": "x"}', '{"content": 3}'])
def test_a_file_without_rows_is_refused(tmp_path: Path, written: str) -> None:
    (tmp_path / "asked.jsonl").write_text(written)
    with pytest.raises(InputError):
        ids_in(tmp_path / "asked.jsonl")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ids_in(tmp_path / "asked.jsonl")


@given(text=st.text(), around=st.text(), wanted=st.text(min_size=1).filter(str.strip))
def test_words_are_found_exactly_where_they_stand(text: str, around: str, wanted: str) -> None:
    """Against Python's own `in`, on the parsed row."""
    for content in (text, text + wanted + around):
        try:
            line = ordered_json({"id": "0" * 64, "content": {"text": content}})
        except UnicodeEncodeError:  # half of a surrogate pair is no text, and no row holds it
            return
        assert with_text(wanted)(line) == (wanted in content)
