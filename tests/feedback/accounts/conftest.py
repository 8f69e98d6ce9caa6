"""An empty database of the rating service, migrated once and copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from sqlalchemy import Engine

from llmops.database import open_database
from llmops.workspace import Workspace
from tests.feedback.accounts.service import Service, service
from tests.feedback.accounts.world import World, populated, world


@pytest.fixture(scope="session")
def migrated(shared_folder: Path) -> Path:
    """A workspace whose database holds all tables and no row."""
    home = shared_folder / "feedback-database"
    with FileLock(f"{home}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.delenv("LLMOPS_DATABASE_URL", raising=False)
        if not (home / "llmops.db").is_file():
            open_database(Workspace(home)).dispose()
    return home / "llmops.db"


@pytest.fixture(scope="session")
def filled(migrated: Path, shared_folder: Path) -> tuple[Path, dict[str, str]]:
    """A database with people of every role and their work in it, and the names of what is in it."""
    home = shared_folder / "feedback-world"
    with FileLock(f"{home}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.delenv("LLMOPS_DATABASE_URL", raising=False)
        if not (home / "names.json").is_file():
            home.mkdir()
            shutil.copy(migrated, home / "llmops.db")
            opened = open_database(Workspace(home))
            (home / "names.json").write_text(json.dumps(populated(opened)))
            opened.dispose()
    names: dict[str, str] = json.loads((home / "names.json").read_text())
    return home / "llmops.db", names


@pytest.fixture
def everything(filled: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A service with people of every role, each signed in."""
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    database, names = filled
    home = tmp_path / "world"
    home.mkdir()
    shutil.copy(database, home / "llmops.db")
    opened = open_database(Workspace(home))
    yield world(opened, names)
    opened.dispose()


@pytest.fixture
def engine(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An open, empty database."""
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    home = tmp_path / "workspace"
    home.mkdir()
    shutil.copy(migrated, home / "llmops.db")
    opened = open_database(Workspace(home))
    yield opened
    opened.dispose()


@pytest.fixture
def house(engine: Engine) -> Service:
    """A service of this machine alone, with its default settings."""
    return service(engine)
