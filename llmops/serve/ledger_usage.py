"""What the ledger says: rows one at a time, and tables of requests, tokens, cost and latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmops.serve.entry import Entry
from llmops.serve.ledger_tables import entry_of, requests

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Engine

By = Literal["route", "engine", "version", "key"]
BY: tuple[By, ...] = get_args(By)
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Usage:
    """What came under one name of a route, engine, version or key; seconds, and None where nothing was measured.

    Attributes:
        name: None where the requests had none, such as those refused before they were routed.
        requests: without copies for a shadow.
        refused: of these, answered with 4xx, a client that left (499) not counted; `failed` with 5xx.
        from_cache: of these, answered without an engine.
        usd: the cost, copies included.
        copies: requests copied to a shadow.
        p50, p95, p99: seconds to the last byte of the answers with status 200, by the nearest rank.
        first_p50, first_p95: seconds to the first byte of these.
    """

    name: str | None
    requests: int
    refused: int
    failed: int
    from_cache: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    usd: float | None
    copies: int
    p50: float | None
    p95: float | None
    p99: float | None
    first_p50: float | None
    first_p95: float | None


def entry(engine: Engine, request: str) -> Entry | None:
    """The entry of one request; None where there is none."""
    from sqlalchemy import select

    with engine.connect() as connection:
        row = connection.execute(select(requests()).where(requests().c.id == request)).one_or_none()
    return None if row is None else entry_of(row)


def entries(
    engine: Engine, *, since: float | None = None, until: float | None = None, route: str | None = None
) -> Iterator[Entry]:
    """Entries in the order they came, from `since` until before `until`; a thousand are in memory at a time."""
    from sqlalchemy import select

    table = requests()
    chosen = select(table).where(*_between(since, until)).order_by(table.c.at, table.c.id)
    if route is not None:
        chosen = chosen.where(table.c.route == route)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=_CHUNK).execute(chosen):
            yield entry_of(row)


def usage(engine: Engine, by: By, *, since: float | None = None, until: float | None = None) -> list[Usage]:
    """One line for every name, those with the most requests first; the database does the counting."""
    from sqlalchemy import Integer, case, cast, func, select

    table = requests()
    name, own = table.c[by], table.c.shadow_of.is_(None)

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[Any]:
        met: ColumnElement[bool] = own
        for condition in conditions:
            met = met & condition
        return func.coalesce(func.sum(case((met, 1), else_=0)), 0)

    def total(column: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(func.coalesce(func.sum(case((own, column))), 0), Integer)

    counted = (
        select(
            name.label("name"),
            count().label("requests"),
            count(table.c.status.between(400, 498)).label("refused"),
            count(table.c.status >= 500).label("failed"),
            count(table.c.from_cache).label("from_cache"),
            total(table.c.prompt_tokens).label("prompt_tokens"),
            total(table.c.completion_tokens).label("completion_tokens"),
            total(table.c.cached_tokens).label("cached_tokens"),
            func.sum(table.c.usd).label("usd"),
            func.sum(case((own, 0), else_=1)).label("copies"),
        )
        .where(*_between(since, until))
        .group_by(name)
    )
    with engine.connect() as connection:
        lines = [dict(row._mapping) for row in connection.execute(counted)]
        whole = _percentiles(connection, by, "total", (50, 95, 99), since, until)
        first = _percentiles(connection, by, "first_token", (50, 95), since, until)
    found = []
    for line in lines:
        name_of = line.pop("name")
        p50, p95, p99 = whole.get(name_of, (None, None, None))
        first_p50, first_p95 = first.get(name_of, (None, None))
        times: dict[str, Any] = {"p50": p50, "p95": p95, "p99": p99, "first_p50": first_p50, "first_p95": first_p95}
        usd = line.pop("usd")
        found.append(Usage(name=name_of, usd=usd, **{key: int(value) for key, value in line.items()}, **times))
    return sorted(found, key=lambda one: (-one.requests, one.name or ""))


def spent(engine: Engine, at: float) -> dict[str, float]:
    """US dollars by key in the calendar month (UTC) of the Unix time `at`."""
    from sqlalchemy import func, select

    table = requests()
    start, end = month(at)
    chosen = (
        select(table.c.key, func.sum(table.c.usd))
        .where(table.c.at >= start, table.c.at < end, table.c.key.is_not(None), table.c.usd.is_not(None))
        .group_by(table.c.key)
    )
    with engine.connect() as connection:
        return {key: float(usd) for key, usd in connection.execute(chosen)}


def month(at: float) -> tuple[float, float]:
    """Unix times at which the calendar month (UTC) of `at` begins and the next one does."""
    first = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.timestamp(), after.timestamp()


def _percentiles(
    connection: Any, by: By, measured: str, percents: tuple[int, ...], since: float | None, until: float | None
) -> dict[str | None, tuple[float | None, ...]]:
    """By name the values at rank ⌈n·p/100⌉ of n, sorted by the database, which keeps memory here small."""
    from sqlalchemy import case, func, select

    table = requests()
    value = table.c[measured]
    ranked = (
        select(
            table.c[by].label("name"),
            value.label("value"),
            func.row_number().over(partition_by=table.c[by], order_by=value).label("rank"),
            func.count().over(partition_by=table.c[by]).label("n"),
        )
        .where(*_between(since, until), value.is_not(None), table.c.shadow_of.is_(None), table.c.status == 200)
        .subquery()
    )
    wanted = [
        func.max(case((ranked.c.rank == (ranked.c.n * percent + 99) // 100, ranked.c.value))) for percent in percents
    ]
    rows = connection.execute(select(ranked.c.name, *wanted).group_by(ranked.c.name))
    return {row[0]: tuple(row[1:]) for row in rows}


def _between(since: float | None, until: float | None) -> list[ColumnElement[bool]]:
    at = requests().c.at
    return ([at >= since] if since is not None else []) + ([at < until] if until is not None else [])
