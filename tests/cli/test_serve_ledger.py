"""`serve ledger` shows requests, tokens, cost and latency by route, engine, version or key."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import typer
from sqlalchemy import insert
from typer.testing import CliRunner, Result

from llmops.cli.serve_ledger import _start, register
from llmops.database import open_database
from llmops.errors import InputError
from llmops.serve.ledger_tables import request_row, requests
from llmops.workspace import Workspace
from tests.serve.entries import an_entry


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    return Workspace(tmp_path / "home")


def run(*arguments: str) -> Result:
    serve = typer.Typer()
    register(serve)
    serve.callback()(lambda: None)  # one command alone would have no name
    return CliRunner().invoke(serve, ["ledger", *arguments])


def test_a_line_for_each_name_the_busiest_first(home: Workspace) -> None:
    day = 86_400.0
    some = [
        *(an_entry(total=0.1 * number, first_token=0.02) for number in range(1, 21)),
        an_entry(route="direct", status=429, usd=None, total=5.0),
        an_entry(route="direct", status=503, usd=None),
        an_entry(shadow_of="x", usd=0.5),
        an_entry(at=time.time() - 2 * day),
    ]
    with open_database(home).begin() as connection:
        connection.execute(insert(requests()), [request_row(one) for one in some])
    head, first, second, copies, after = run().stdout.splitlines()
    assert " ".join(head.split()) == "route requests 4xx 5xx cached tokens in tokens out USD p50 p95 p99 first"
    assert " ".join(first.split()) == "auto 20 0 0 0 240 100 0.5200 1.0 s 1.9 s 2.0 s 20 ms"
    assert " ".join(second.split()) == "direct 2 1 1 0 24 10 - - - - -"
    assert copies == "and 1 copies for shadows, whose cost is included"
    assert after == "next: llmops serve ledger --by key --since 24h"
    older = json.loads(run("--by", "key", "--since", "3d", "--json").stdout)
    assert [(one["key"], one["requests"], one["p95"]) for one in older] == [("k1", 23, pytest.approx(1.9))]


def test_an_empty_ledger_says_so(home: Workspace) -> None:
    said = run("--since", "2026-11-01").stdout.splitlines()
    assert said == ["no requests since 2026-11-01 00:00 UTC", "next: llmops serve configs/gateway.yaml"]
    assert json.loads(run("--json").stdout) == []


@pytest.mark.parametrize(
    ("text", "start"),
    [("90m", 1e9 - 5400), ("1.5h", 1e9 - 5400), ("2d", 1e9 - 172_800), ("1w", 1e9 - 604_800), ("2001-09-09", 999993600),
     ("2001-09-09T01:00+01:00", 999993600)],
)  # fmt: skip
def test_a_start_is_some_time_ago_or_a_date(text: str, start: float) -> None:
    assert _start(text, 1e9) == start


def test_what_is_no_time_is_refused(home: Workspace) -> None:
    assert isinstance(run("--since", "yesterday").exception, InputError)
