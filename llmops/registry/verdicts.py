"""Verdicts as records: sealed by their digest, read back, and kept beside the artifact they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError
from llmops.files import digest_of
from llmops.records import Verdict

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

_ATTEMPTS = 100


def sealed(content: Mapping[str, Any]) -> Verdict:
    """The verdict with this content; its digest is taken over all of it."""
    return Verdict(**_tuples(content), digest=digest_of(dict(content)))


def plain(verdict: Verdict) -> dict[str, Any]:
    """The verdict as its file holds it."""
    return {**asdict(verdict), "rules": [dict(rule) for rule in verdict.rules], "reports": list(verdict.reports)}


def attach(engine: Engine, verdict: Verdict) -> None:
    """Keep a verdict beside the artifact it is of; the same one again changes nothing."""
    from sqlalchemy.exc import IntegrityError

    check_verdict(verdict)
    for attempt in range(_ATTEMPTS):
        try:
            _place_last(engine, verdict)
            return
        except IntegrityError:
            # Another process took the place in between; each time this happens, one of them is done.
            if attempt == _ATTEMPTS - 1:
                raise


def _place_last(engine: Engine, verdict: Verdict) -> None:
    from sqlalchemy import func, insert, select

    table = _table()
    with engine.begin() as connection:
        if connection.execute(select(table.c.digest).where(table.c.digest == verdict.digest)).first():
            return
        place = connection.execute(select(func.coalesce(func.max(table.c.place), 0))).scalar_one() + 1
        content = json.dumps(plain(verdict), ensure_ascii=False)
        connection.execute(
            insert(table).values(digest=verdict.digest, place=place, artifact=verdict.model_digest, content=content)
        )


def verdicts_of(engine: Engine, artifact: str) -> list[Verdict]:
    """The verdicts on an artifact, the oldest first."""
    from sqlalchemy import select

    table = _table()
    with engine.connect() as connection:
        rows = connection.execute(select(table.c.content).where(table.c.artifact == artifact).order_by(table.c.place))
        return [verdict_from(json.loads(content)) for (content,) in rows]


def verdict_from(written: dict[str, Any]) -> Verdict:
    """The verdict in a record.

    Raises:
        InputError: it is none, or was changed after it was written.
    """
    try:
        verdict = Verdict(**_tuples(written))
    except (TypeError, KeyError) as error:
        raise InputError("this is no verdict", fix="give a verdict that `llmops eval --gate` wrote") from error
    check_verdict(verdict)
    return verdict


def check_verdict(verdict: Verdict) -> None:
    """Raises InputError where a verdict's digest is not that of its content."""
    content = {key: value for key, value in plain(verdict).items() if key != "digest"}
    if sealed(content).digest != verdict.digest:
        raise InputError(
            f"the verdict {verdict.digest[:12]} was changed after it was written: its digest does not fit",
            fix="judge the model again with `llmops eval --gate`",
        )


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, "rules": tuple(content["rules"]), "reports": tuple(content["reports"])}


def _table() -> Table:
    from sqlalchemy import Column, Integer, MetaData, Table, Text

    columns = (Column("digest", Text), Column("place", Integer), Column("artifact", Text), Column("content", Text))
    return Table("verdicts", MetaData(), *columns)
