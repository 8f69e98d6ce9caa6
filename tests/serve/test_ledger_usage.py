"""What the ledger's table says agrees with a slow count over every row, on both databases."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, insert, text

from llmops.database import open_database
from llmops.serve.entry import Entry
from llmops.serve.ledger_tables import request_row, requests
from llmops.serve.ledger_usage import BY, Usage, entries, entry, month, spent, usage
from llmops.workspace import Workspace
from tests.serve.entries import an_entry


@pytest.fixture
def engine(each_database: str, tmp_path: Path) -> Engine:
    return open_database(Workspace(tmp_path / "home"))


def write(engine: Engine, some: list[Entry]) -> None:
    with engine.begin() as connection:
        connection.execute(insert(requests()), [request_row(one) for one in some])


def made(count: int) -> list[Entry]:
    draw = random.Random(7)
    return [
        an_entry(
            id=f"{number:06}",
            at=1000.0 + draw.random() * 100,
            route=draw.choice(["auto", "direct", None]),
            engine=draw.choice(["small", "large"]),
            version=draw.choice(["models:/m/1", "models:/m/2"]),
            key=draw.choice(["k1", "k2", None]),
            status=draw.choice([200] * 6 + [429, 499, 503]),
            total=draw.choice([None, draw.expovariate(2)]),
            first_token=draw.random(),
            usd=draw.choice([None, draw.random()]),
            prompt_tokens=draw.choice([None, 7]),
            from_cache=draw.random() < 0.1,
            shadow_of=draw.choice([None] * 9 + ["x"]),
        )
        for number in range(count)
    ]


def slowly(some: list[Entry], name: str | None) -> Usage:
    own = [one for one in some if one.shadow_of is None]
    answered = [one for one in own if one.status == 200]
    priced = [one.usd for one in some if one.usd is not None]

    def at(values: list[float | None], percent: int) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.percentile(known, percent, method="inverted_cdf")) if known else None

    totals, firsts = [one.total for one in answered], [one.first_token for one in answered]
    return Usage(
        name=name,
        requests=len(own),
        refused=sum(400 <= one.status < 499 for one in own),
        failed=sum(one.status >= 500 for one in own),
        from_cache=sum(one.from_cache for one in own),
        prompt_tokens=sum(one.prompt_tokens or 0 for one in own),
        completion_tokens=sum(one.completion_tokens or 0 for one in own),
        cached_tokens=sum(one.cached_tokens or 0 for one in own),
        usd=pytest.approx(sum(priced)) if priced else None,  # type: ignore[arg-type]
        copies=len(some) - len(own),
        p50=at(totals, 50),
        p95=at(totals, 95),
        p99=at(totals, 99),
        first_p50=at(firsts, 50),
        first_p95=at(firsts, 95),
    )


def test_every_line_is_what_a_count_over_all_rows_says(engine: Engine) -> None:
    every = made(600)
    write(engine, every)
    chosen = [one for one in every if 1010.0 <= one.at < 1090.0]
    for by in BY:
        lines = usage(engine, by, since=1010.0, until=1090.0)
        names = {getattr(one, by) for one in chosen}
        assert {line.name for line in lines} == names
        assert [line.requests for line in lines] == sorted((line.requests for line in lines), reverse=True)
        for line in lines:
            assert slowly([one for one in chosen if getattr(one, by) == line.name], line.name) == line


def test_an_empty_ledger_has_no_lines(engine: Engine) -> None:
    assert usage(engine, "route") == []
    assert list(entries(engine)) == []
    assert entry(engine, "x") is None
    assert spent(engine, 1000.0) == {}


def test_entries_come_in_order_and_only_those_asked_for(engine: Engine) -> None:
    every = made(2500)
    write(engine, every)
    found = list(entries(engine, since=1020.0, until=1080.0, route="auto"))
    wanted = [one for one in every if 1020.0 <= one.at < 1080.0 and one.route == "auto"]
    assert found == sorted(wanted, key=lambda one: (one.at, one.id))
    assert entry(engine, every[3].id) == every[3]


def test_a_key_has_spent_what_its_requests_of_the_month_cost(engine: Engine) -> None:
    start, end = month(datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp())
    assert (datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)) == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    write(
        engine,
        [
            an_entry(key="a", at=start, usd=1.0),
            an_entry(key="a", at=end - 0.001, usd=0.5),
            an_entry(key="a", at=start - 0.001, usd=16.0),
            an_entry(key="a", at=end, usd=32.0),
            an_entry(key="a", at=start, usd=None),
            an_entry(key="b", at=start, usd=4.0),
            an_entry(key="free", at=start, usd=None),
            an_entry(key=None, at=start, usd=8.0),
        ],
    )
    assert spent(engine, start + 5) == {"a": 1.5, "b": 4.0}


@pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)
def test_twenty_thousand_rows_are_read_in_the_memory_of_a_few(engine: Engine) -> None:
    write(engine, [an_entry(id="0", at=0.0, reason="r" * 200)])
    names = ", ".join(f'"{column.name}"' for column in requests().columns)
    rest = ", ".join(f'"{column.name}"' for column in requests().columns if column.name not in ("id", "at"))
    with engine.begin() as connection:
        connection.execute(
            text(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) "
                f"INSERT INTO requests ({names}) SELECT CAST(i AS TEXT), CAST(i AS REAL), {rest} FROM n, requests"
            )
        )
    tracemalloc.start()
    try:
        count = sum(1 for _ in entries(engine))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 5e6, "all at once they take about 20 MB"
