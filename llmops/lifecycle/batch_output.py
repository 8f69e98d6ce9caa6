"""The finished output of a batch: a line or row for each of the input, in its order, written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from llmops.data.filetypes import filetype_of
from llmops.errors import InputError
from llmops.files import sync_folder
from llmops.lifecycle.batch_input import Scanned, columns_of
from llmops.lifecycle.batch_journal import Journal, encoded

KINDS = ("jsonl", "csv", "tsv", "parquet")
ANSWER = {
    "": "text",
    "_finish_reason": "text",
    "_prompt_tokens": "integer",
    "_completion_tokens": "integer",
    "_error": "text",
}
"""Columns added to a row, by what follows the answer's name, with what they hold."""
OPENAI = {"id": "text", "custom_id": "text", "response": "json", "error": "json"}
_GROUP = 1024  # rows that are written to parquet at a time


def check_output(file: Path, scanned: Scanned, answer: str) -> None:
    """Raise InputError where the output could not be written when all is answered."""
    if filetype_of(file.name) not in KINDS:
        raise InputError(f"{file}: the ending does not say how to write it", fix="name it .jsonl, .csv or .parquet")
    if file.resolve() == scanned.file.resolve():
        raise InputError(f"{file} is the input", fix="give another OUT")
    taken = [answer + end for end in ANSWER if answer + end in scanned.columns]
    if taken:
        raise InputError(
            f"{scanned.file} has a column {taken[0]!r} already", fix="name the new ones otherwise: --answer NAME"
        )


def write_output(file: Path, scanned: Scanned, journal: Journal, answer: str, before: Callable[[str], None]) -> None:
    """Put the output in place.

    Args:
        answer: the column the answers get, where the input has columns.
        before: hears the output's sha256 (hex) when it is on the disk but not yet in place.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w+b") as opened:
            os.fchmod(opened.fileno(), file.stat().st_mode & 0o777 if file.exists() else 0o644)
            _written(opened, str(filetype_of(file.name)), scanned, _records(scanned, journal, answer), answer)
            opened.flush()
            os.fsync(opened.fileno())
            opened.seek(0)
            before(hashlib.file_digest(opened, "sha256").hexdigest())
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def remove_torn(file: Path) -> None:
    """Delete what a kill left of an output that was being put together; whoever holds its journal may do so."""
    for left in file.parent.glob(f".{escape(file.name)}.????????"):
        with suppress(FileNotFoundError):
            left.unlink()


def _records(scanned: Scanned, journal: Journal, answer: str) -> Iterator[dict[str, Any]]:
    if scanned.kind == "openai":
        yield from journal.results()
        return
    for columns, result in zip(columns_of(scanned), journal.results(), strict=True):
        yield {**columns, **{answer + end: result.get(end) for end in ANSWER}}


def _written(
    opened: BinaryIO, filetype: str, scanned: Scanned, records: Iterable[Mapping[str, Any]], answer: str
) -> None:
    columns = OPENAI if scanned.kind == "openai" else {**scanned.columns, **_answer_columns(answer)}
    if filetype == "jsonl":
        for record in records:
            opened.write(encoded(record) + b"\n")
    elif filetype == "parquet":
        _parquet(opened, scanned, records, columns, answer)
    else:
        text = io.TextIOWrapper(opened, encoding="utf-8", errors="replace", newline="", write_through=True)
        rows = csv.writer(text, delimiter="," if filetype == "csv" else "\t", lineterminator="\n")
        rows.writerow(columns)
        for record in records:
            rows.writerow([_as_text(record.get(name)) for name in columns])
        text.flush()
        text.detach()


def _answer_columns(answer: str) -> dict[str, str]:
    return {answer + end: kind for end, kind in ANSWER.items()}


def _as_text(value: Any) -> str:
    """A cell: text as it is, nothing as nothing, all else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _whole(value: Any) -> Any:
    """Text without halves of surrogate pairs, which parquet cannot hold."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _parquet(
    opened: BinaryIO,
    scanned: Scanned,
    records: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    answer: str,
) -> None:
    """Columns keep the types that a parquet input gave them; of other inputs, what is no single type becomes JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "json": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "truth": pa.bool_(),
    }
    kept = {}
    if scanned.kind == "columns" and filetype_of(scanned.file.name) == "parquet":
        kept = {one.name: one for one in pq.read_schema(scanned.file)}
    schema = pa.schema([kept.get(name) or pa.field(name, types[kind]) for name, kind in columns.items()])
    as_json = {name for name, kind in columns.items() if kind == "json" and name not in kept}

    def cell(name: str, value: Any) -> Any:
        if name in kept:
            return value
        if name in as_json and value is not None:
            return _whole(json.dumps(value, ensure_ascii=False))
        return float(value) if columns[name] == "number" and value is not None else _whole(value)

    with pq.ParquetWriter(opened, schema) as writer:
        group: list[dict[str, Any]] = []

        def flush() -> None:
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group.clear()

        for record in records:
            group.append({name: cell(name, record.get(name)) for name in columns})
            if len(group) == _GROUP:
                flush()
        flush()
