"""The ledger's tables, and entries as rows that every database takes, whatever a client or an engine wrote in them."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from llmops.data.privacy import redact
from llmops.serve.entry import Captured, Entry
from llmops.serve.hooks import Feedback

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Row

LONGEST = 512
"""Characters of a short text, such as a route; a client may ask for a model with a name of any length."""
_MOST = 2**53
"""Counts are cut here; what an engine says about its tokens need not fit the database's integers."""


@cache
def requests() -> Table:
    """One row per `Entry`."""
    from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Table, Text

    kinds: dict[str, Any] = {
        "str": Text, "int": BigInteger, "float": Double, "bool": Boolean, "tuple[str, ...]": Text,
    }  # fmt: skip
    small = {"status": Integer, "retries": Integer}
    columns = [
        Column(one.name, small.get(one.name) or kinds[str(one.type).removesuffix(" | None")], primary_key=not place)
        for place, one in enumerate(fields(Entry))
    ]
    return Table("requests", MetaData(), *columns)


@cache
def captured() -> Table:
    """One row per `Captured`."""
    from sqlalchemy import Column, Double, MetaData, Table, Text

    return Table(
        "captured",
        MetaData(),
        Column("id", Text, primary_key=True),
        Column("probability", Double),
        Column("request", Text),
        Column("answer", Text),
        Column("until", Double),
    )


@cache
def feedback() -> Table:
    """One row per `Feedback`, under an id of its own; a later one of the same key corrects an earlier one."""
    from sqlalchemy import Column, Double, MetaData, Table, Text

    return Table(
        "feedback",
        MetaData(),
        Column("id", Text, primary_key=True),
        Column("request", Text),
        Column("at", Double),
        Column("key", Text),
        Column("thumb", Text),
        Column("score", Double),
        Column("comment", Text),
        Column("correction", Text),
    )


_ENTRY = tuple(one.name for one in fields(Entry))


def request_row(entry: Entry) -> dict[str, Any]:
    """An entry as a row of `requests`."""
    row = {name: _plain(getattr(entry, name)) for name in _ENTRY}
    row["tags"] = json.dumps(list(entry.tags))
    return row


def captured_row(kept: Captured) -> dict[str, Any]:
    """A kept prompt and answer as a row of `captured`."""
    return {
        "id": kept.id,
        "probability": kept.probability,
        "request": json.dumps(kept.request),
        "answer": json.dumps(kept.answer),
        "until": kept.until,
    }


def feedback_row(name: str, given: Feedback) -> dict[str, Any]:
    """Feedback as a row, personal data taken out of its texts; they are as long as its endpoint let them be."""
    comment, correction = (redact(_text(said)) if said else said for said in (given.comment, given.correction))
    return {
        "id": name,
        "request": _plain(given.request),
        "at": given.at,
        "key": _plain(given.caller),
        "thumb": _plain(given.thumbs),
        "score": _plain(given.score),
        "comment": comment,
        "correction": correction,
    }


def entry_of(row: Row[Any]) -> Entry:
    """The entry that `request_row` made a row of."""
    values = dict(row._mapping)
    return Entry(**{**values, "tags": tuple(json.loads(values["tags"]))})


def _plain(value: Any) -> Any:
    kind = type(value)  # what is usual first, since this runs for every value of every row
    if value is None or kind is bool:
        return value
    if kind is str:
        usual = len(value) <= LONGEST and value.isascii() and "\0" not in value
        return value if usual else _text(value[:LONGEST])
    if kind is int:
        return max(-_MOST, min(_MOST, value))
    if kind is float:
        return value if math.isfinite(value) else None
    return _text(str(value)[:LONGEST])


def _text(value: str) -> str:
    """Without NUL, which PostgreSQL refuses, and without halves of surrogate pairs, which are no UTF-8."""
    return value.replace("\0", "").encode("utf-8", "replace").decode()
