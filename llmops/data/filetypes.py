"""Rows out of the bytes of one file, a few at a time: csv, tsv, jsonl, json, parquet, arrow. Knows no places."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal
from urllib.parse import urlsplit

from llmops.errors import Fault, FileFaults

FileType = Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow"]
Records = Iterator[tuple[int, dict[str, Any]]]

ENDINGS: dict[str, FileType] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_NAMED = 5  # faults of one file that are looked for before giving up on it
_BATCH = 1024  # rows of a columnar file in memory at one time
_LARGEST = 16 << 20  # characters of one cell or JSON value; beyond, a quote or bracket was left open


def filetype_of(name: str) -> FileType | None:
    """What the ending of a file name or URL says; None where it says nothing known."""
    path = urlsplit(name).path if "://" in name else name
    return ENDINGS.get(PurePosixPath(path).suffix.lower())


def rows_in(file: BinaryIO, filetype: FileType, *, name: str) -> Records:
    """The rows of an open file with where each stands.

    Args:
        name: how faults call the file.

    Yields:
        From 1: the line a row starts on (csv, tsv, jsonl) or its number (json, parquet, arrow); and its columns.
        Cells of csv and tsv are text.

    Raises:
        FileFaults: lines that are malformed, up to five; rows before the first of them have been yielded.
    """
    match filetype:
        case "csv" | "tsv":
            yield from _separated(file, name, "," if filetype == "csv" else "\t")
        case "jsonl":
            yield from _json_lines(file, name)
        case "json":
            yield from _json_values(file, name)
        case "parquet" | "arrow":
            yield from _columnar(file, name, filetype)


def _broken(name: str, filetype: str, faults: list[Fault]) -> FileFaults:
    return FileFaults(name, faults, what=f"{filetype} file", fix="mend or remove what is named above")


def _lines(file: BinaryIO, faults: list[Fault]) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends; those that are not UTF-8 go to `faults` instead."""
    for number, line in enumerate(file, 1):
        if number == 1:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                faults.append(Fault("", "written as UTF-16; save the file as UTF-8", 1))
                return
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            faults.append(Fault("", f"not UTF-8 (byte {error.start + 1} of the line)", number))


def _separated(file: BinaryIO, name: str, separator: str) -> Records:
    faults: list[Fault] = []
    filetype = "csv" if separator == "," else "tsv"
    start = 0  # line the row being read starts on; 0 before its first line is known

    def lines() -> Iterator[str]:
        nonlocal start
        for number, line in _lines(file, faults):
            start = start or number
            yield line

    csv.field_size_limit(_LARGEST)
    reader = csv.reader(lines(), delimiter=separator, strict=True)
    header: list[str] | None = None
    while len(faults) < _NAMED:
        start = 0
        try:
            cells = next(reader, None)
        except csv.Error as error:
            faults.append(Fault("", f"{error}; a quote may be left open or stand inside a cell", start))
            break
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = cells
            twice = sorted({cell for cell in cells if cells.count(cell) > 1})
            if twice:
                faults.append(Fault("", f"the header names {', '.join(map(repr, twice))} twice", start))
                break
        elif len(cells) != len(header):
            faults.append(Fault("", f"{len(cells)} cells where the header has {len(header)}", start))
        elif not faults:
            yield start, dict(zip(header, cells, strict=True))
    if faults:
        raise _broken(name, filetype, faults)


def _json_lines(file: BinaryIO, name: str) -> Records:
    faults: list[Fault] = []
    for number, line in _lines(file, faults):
        if len(faults) >= _NAMED:
            break
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            faults.append(Fault("", f"not JSON: {problem}", number))
            continue
        if not isinstance(value, dict):
            faults.append(Fault("", f"a {type(value).__name__}, where an object with columns belongs", number))
        elif not faults:
            yield number, value
    if faults:
        raise _broken(name, "jsonl", faults)


_BETWEEN = re.compile(r"[\s,]*")


def _json_values(file: BinaryIO, name: str) -> Records:
    """The objects of one array, or objects one after another, without holding more than one and a block."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    parse = json.JSONDecoder().raw_decode
    text, at, line, number, ended, in_array = "", 0, 1, 0, False, False

    def fault(problem: str) -> FileFaults:
        return _broken(name, "json", [Fault("", problem, line)])

    def more() -> str:
        nonlocal ended
        block = file.read(max(1 << 16, len(text)))
        ended = not block
        try:
            return decode(block, final=ended)
        except UnicodeDecodeError as error:
            raise fault("not UTF-8 from about here") from error

    while True:
        between = _BETWEEN.match(text, at)
        assert between is not None
        line += text.count("\n", at, between.end())
        at = between.end()
        if at == len(text):
            if ended:
                if in_array:
                    raise fault("the file ends before the closing ]")
                return
            text, at = more(), 0
        elif number == 0 and not in_array and text[at] == "[":
            in_array, at = True, at + 1
        elif in_array and text[at] == "]":
            return
        else:
            try:
                value, end = parse(text, at)
            except (ValueError, RecursionError) as error:
                if not ended and len(text) - at < _LARGEST:
                    text, at = text[at:] + more(), 0
                    continue
                raise fault(f"not JSON: {getattr(error, 'msg', error)}") from error
            if not isinstance(value, dict):
                raise fault(f"element {number + 1} is a {type(value).__name__}, where an object with columns belongs")
            number += 1
            yield number, value
            line += text.count("\n", at, end)
            at = end


def _columnar(file: BinaryIO, name: str, filetype: Literal["parquet", "arrow"]) -> Records:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        if filetype == "parquet":
            batches: Iterator[Any] = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=_BATCH)
        else:
            batches = _arrow_batches(file)
        for batch in batches:
            for first in range(0, batch.num_rows, _BATCH):
                for columns in batch.slice(first, _BATCH).to_pylist():
                    number += 1
                    yield number, columns
    except pyarrow.ArrowException as error:
        where = f"after row {number}: " if number else ""
        raise _broken(name, filetype, [Fault("", f"{where}{str(error).splitlines()[0]}")]) from error


def _arrow_batches(file: BinaryIO) -> Iterator[Any]:
    """Record batches of an IPC file or an IPC stream, told apart by the file's magic bytes."""
    import pyarrow

    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        reader = pyarrow.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
    else:
        yield from pyarrow.ipc.open_stream(file)
