"""Databases of the rating service, a file or a real PostgreSQL, and a desk with a clock of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Engine

from llmops.database import open_database
from llmops.feedback.desk import Desk
from llmops.workspace import Workspace
from tests.feedback.small_campaigns import Clock


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables and nothing in them, made once."""
    place = Workspace(tmp_path_factory.mktemp("empty"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LLMOPS_DATABASE_URL", raising=False)
        open_database(place).dispose()
    return place.home / "llmops.db"


@pytest.fixture
def sqlite(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "llmops.db")
    engine = open_database(Workspace(home), keep=10, survives="kill")
    yield engine
    engine.dispose()


@pytest.fixture
def postgres(postgresql_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("LLMOPS_DATABASE_URL", postgresql_database)
    engine = open_database(Workspace(tmp_path / "home"), keep=25)
    yield engine
    engine.dispose()


@pytest.fixture
def both(each_database: str, request: pytest.FixtureRequest) -> Engine:
    """One after the other."""
    engine: Engine = request.getfixturevalue("sqlite" if each_database == "sqlite" else "postgres")
    return engine


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(sqlite: Engine, clock: Clock) -> Desk:
    return Desk(sqlite, clock=clock, random=Random(5))
