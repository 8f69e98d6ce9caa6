"""Rows come out of a file's bytes one at a time and unchanged; what is malformed is named by line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.filetypes import FileType, filetype_of, rows_in
from llmops.errors import FileFaults


def rows(content: bytes, filetype: FileType) -> list[tuple[int, dict[str, Any]]]:
    return list(rows_in(io.BytesIO(content), filetype, name="f"))


def faults(content: bytes, filetype: FileType) -> list[tuple[int | None, str]]:
    with pytest.raises(FileFaults) as caught:
        rows(content, filetype)
    assert caught.value.path == "f"
    return [(fault.line, fault.problem) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("name", "filetype"),
    [
        ("a.csv", "csv"),
        ("A.CSV", "csv"),
        ("a.ndjson", "jsonl"),
        ("https://host/a.parquet?token=1.csv", "parquet"),
        ("a", None),
        ("a.txt", None),
    ],
)
def test_the_ending_says_how_a_file_is_written(name: str, filetype: str | None) -> None:
    assert filetype_of(name) == filetype


def test_csv_survives_byte_order_mark_crlf_and_line_ends_inside_quotes() -> None:
    content = b'\xef\xbb\xbfa,b\r\n"1\r\n2",\xc3\xa9\r\n\r\n"say ""x""",\r\n'
    assert rows(content, "csv") == [(2, {"a": "1\r\n2", "b": "é"}), (5, {"a": 'say "x"', "b": ""})]


def test_tsv_is_parted_at_tabs_only() -> None:
    assert rows(b"a\tb\n1,2\t3\n", "tsv") == [(2, {"a": "1,2", "b": "3"})]


def test_a_header_alone_or_nothing_at_all_gives_no_rows() -> None:
    assert rows(b"a,b\n", "csv") == rows(b"", "csv") == rows(b"", "jsonl") == rows(b"[]", "json") == []


def test_csv_lines_of_another_width_are_named_up_to_five_of_them() -> None:
    found = faults(b"a,b\n1,2\n" + b"1\n" * 9, "csv")
    assert found == [(line, "1 cells where the header has 2") for line in (3, 4, 5, 6, 7)]


def test_a_quote_left_open_is_named_by_the_line_it_stands_on() -> None:
    ((line, problem),) = faults(b'a,b\n1,2\n"3,4\n5,6\n', "csv")
    assert line == 3
    assert "quote" in problem


def test_a_column_named_twice_is_a_fault_not_a_lost_column() -> None:
    assert faults(b"a,b,a\n1,2,3\n", "csv") == [(1, "the header names 'a' twice")]


def test_lines_that_are_not_utf8_are_named_and_later_lines_keep_their_numbers() -> None:
    assert faults(b"a\nx\n\xff\n1,2\n", "csv") == [
        (3, "not UTF-8 (byte 1 of the line)"),
        (4, "2 cells where the header has 1"),
    ]
    assert "UTF-16" in faults("a,b\n".encode("utf-16"), "csv")[0][1]


def test_rows_before_the_first_fault_have_been_read() -> None:
    reader = rows_in(io.BytesIO(b'{"a": 1}\nnope\n'), "jsonl", name="f")
    assert next(reader) == (1, {"a": 1})
    with pytest.raises(FileFaults):
        next(reader)


def test_jsonl_skips_blank_lines_and_names_what_is_no_object() -> None:
    assert rows(b'\xef\xbb\xbf{"a": "\xe2\x82\xac"}\r\n\r\n{"a": null}', "jsonl") == [(1, {"a": "€"}), (3, {"a": None})]
    found = faults(b'{"a": 1}\n{"a": \n[1]\n{"b": 2}\n', "jsonl")
    assert [line for line, _ in found] == [2, 3]
    assert "not JSON" in found[0][1]
    assert "list" in found[1][1]


def test_jsonl_nested_too_deep_is_a_fault_not_a_crash() -> None:
    assert faults(b"[" * 200_000, "jsonl")[0][0] == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class Drip(io.BytesIO):
    """A file that hands out three bytes at a time, so that values and characters are cut anywhere."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3)


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=4), st.sampled_from([None, 2]), st.booleans())
def test_a_json_array_read_in_pieces_equals_the_array_read_whole(
    elements: list[dict[str, Any]], indent: int | None, ascii_only: bool
) -> None:
    content = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert list(rows_in(Drip(content), "json", name="f")) == list(enumerate(elements, 1))


def test_a_json_file_of_objects_one_after_another_is_read_too() -> None:
    assert rows(b'{"a": 1}\n{"a": 2}\n', "json") == [(1, {"a": 1}), (2, {"a": 2})]


def test_json_faults_name_the_line() -> None:
    assert faults(b'[{"a": 1},\n {"a" 2}]', "json")[0][0] == 2
    assert faults(b'[{"a": 1},\n 3]', "json") == [(2, "element 2 is a int, where an object with columns belongs")]
    assert faults(b'[{"a": 1}\n', "json") == [(2, "the file ends before the closing ]")]
    assert "UTF-8" in faults(b'[{"a": "\xff"}]', "json")[0][1]


@pytest.mark.parametrize("written", ["parquet", "file", "stream"])
def test_columnar_files_give_nested_rows_over_many_batches(tmp_path: Path, written: str) -> None:
    import pyarrow
    import pyarrow.parquet

    expected = [{"t": [{"role": "user", "content": f"é{n}"}], "n": n, "none": None} for n in range(2500)]
    table = pyarrow.Table.from_pylist(expected)
    path = tmp_path / "f"
    if written == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=700)
    else:
        make = pyarrow.ipc.new_file if written == "file" else pyarrow.ipc.new_stream
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2000)
    with path.open("rb") as file:
        filetype: FileType = "parquet" if written == "parquet" else "arrow"
        assert list(rows_in(file, filetype, name="f")) == list(enumerate(expected, 1))


@pytest.mark.parametrize("filetype", ["parquet", "arrow"])
def test_bytes_that_are_no_columnar_file_are_a_fault(filetype: FileType) -> None:
    assert faults(b"a,b\n1,2\n" * 10, filetype)
