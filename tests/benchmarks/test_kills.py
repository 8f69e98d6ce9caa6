"""Two hundred random kills of the server and of browsers during five thousand ratings: each rating is stored once.

The service is `llmops feedback serve` in a process of its own, raters have accounts, sessions and a chromium with a
profile on disk, and press keys. SIGKILL meets them between two keys, up to 30 ms after Enter, at any time, both at
once, the browser while the server is away, and either again as soon as it is back (`strikes`). Raters go on through all
of it. What they saw is then compared with the rows of the database (`kill_run.compared`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from llmops.database import open_database
from llmops.workspace import Workspace
from tests.chromium import chromium_program
from tests.feedback.kill_run import rated_through_kills

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

RATINGS, KILLS = 5_000, 200
ON_POSTGRESQL = 5
"""Of both, one in so many on PostgreSQL."""
RATERS = 2
SEED = 5


@pytest.fixture
def database(each_database: str, tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(Workspace(tmp_path / "home"), keep=5)
    yield engine
    engine.dispose()


def test_each_rating_is_stored_exactly_once(database: Engine, each_database: str, tmp_path: Path) -> None:
    part = 1 if each_database == "sqlite" else ON_POSTGRESQL
    seen = rated_through_kills(
        database,
        tmp_path / "home",
        tmp_path,
        chromium_program(),
        items=RATINGS // RATERS // part,
        raters=RATERS,
        kills=KILLS // part,
        seed=SEED,
        told=lambda line: print(f"\n{each_database}: {line}", end="", flush=True),
    )
    print(f"\n{each_database}: {seen}")
    assert (seen.ratings, seen.stored) == (RATINGS // part, RATINGS // part)
    assert seen.server_kills + seen.browser_kills == KILLS // part
    assert seen.faultless, seen.said()
