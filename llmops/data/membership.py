"""Which dataset versions hold a row, read from their files as they stand: no index can be older than the rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.data.assembly import SPLITS
from llmops.data.formats import content_digest
from llmops.errors import InputError
from llmops.files import ordered_json
from llmops.records import Split

_ID = b'{"id":"'
_DIGITS = 64
_FEWEST_DIGITS = 6
_CONTENT = ("messages", "tools", "text", "chosen", "rejected", "completion", "label", "margin")

Wanted = Callable[[bytes], bool]
"""Says of a line of a version's file whether it is a row that is looked for."""


@dataclass(frozen=True, slots=True)
class Place:
    """A row in a dataset version: `version` is the first 16 digits of that version's digest."""

    version: str
    split: Split
    id: str
    source: str
    line: int


def with_id(start: str) -> Wanted:
    """Rows whose id begins so.

    Raises:
        InputError: it is no beginning of a digest, or so short that it would be one of many.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{_FEWEST_DIGITS},{_DIGITS}}}", start.lower()):
        raise InputError(
            f"{start!r} is no row id: ids are {_DIGITS} digits from 0 to f, and the first {_FEWEST_DIGITS} will do",
            fix="look it up with `llmops data show VERSION --rows 5 --json`, or name the row by --text or --rows",
        )
    begins = _ID + start.lower().encode()
    return lambda line: line.startswith(begins)


def with_ids(ids: Collection[str]) -> Wanted:
    """Rows whose whole id is one of these."""
    wanted = {one.encode() for one in ids}
    return lambda line: line[len(_ID) : len(_ID) + _DIGITS] in wanted


def with_text(text: str) -> Wanted:
    """Rows in whose content this text stands, letter by letter, inside one of its strings.

    Raises:
        InputError: the text is empty.
    """
    if not text.strip():
        raise InputError("the text to look for is empty", fix="give some words of the row")
    written = ordered_json(text)[1:-1]  # as the file holds it; a line without these bytes need not be parsed

    def wanted(line: bytes) -> bool:
        return written in line and any(text in one for one in _strings(json.loads(line)["content"]))

    return wanted


def ids_in(file: Path) -> list[str]:
    """The ids of the rows in a jsonl file: rows of a dataset version, or what stands in such a row's `content`.

    Raises:
        InputError: it cannot be read, or a line is neither.
    """
    found = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_id_of(line, f"{file}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}", fix="give a jsonl file of rows") from error
    if not found:
        raise InputError(f"{file} holds no row", fix="give a jsonl file of rows")
    return found


def places(objects: Path, wanted: Wanted) -> Iterator[Place]:
    """Every place of the wanted rows in the dataset versions of a workspace, one line in memory at a time."""
    for folder in folders(objects):
        for split in SPLITS:
            file = folder / f"{split}.jsonl"
            if not file.is_file():
                continue
            with file.open("rb") as lines:
                for line in lines:
                    if wanted(line):
                        row = json.loads(line)
                        yield Place(short(folder), split, row["id"], row["source"], row["line"])


def folders(objects: Path) -> list[Path]:
    """The folders of all dataset versions, by name."""
    return sorted(path for path in objects.glob("dataset-*") if path.is_dir())


def short(folder: Path) -> str:
    """The digits of a version's digest that its folder's name holds."""
    return folder.name.removeprefix("dataset-")


def _id_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON", fix="write one row a line, as JSON") from error
    given = row.get("content", row) if isinstance(row, Mapping) else None
    content = {key: given[key] for key in given if key in _CONTENT} if isinstance(given, Mapping) else {}
    if not content.keys() & {"messages", "text"}:
        raise InputError(
            f"{where} is no row: it has neither `messages` nor `text`",
            fix="write rows as `llmops data show VERSION --rows 5 --json` prints them, or look by --text",
        )
    return content_digest(content)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
