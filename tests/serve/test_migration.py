"""A database of the version before keeps every row and gets the tables of serving; what code and tables say agrees."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

import llmops.database
from llmops.database import SCHEMA, open_database
from llmops.errors import EnvironmentFault
from llmops.registry.decisions import append, chain, check_chain
from llmops.registry.verdicts import attach, sealed, verdicts_of
from llmops.serve.entry import Captured, Entry
from llmops.serve.ledger_tables import captured, feedback, requests
from llmops.workspace import Workspace

MIGRATIONS = Path(llmops.database.__file__).parent / "migrations"


@pytest.fixture
def place(each_database: str, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def at_0001(place: Workspace) -> Engine:
    """The database as the version before left it."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy.pool import NullPool

    engine = create_engine(llmops.database._url(place), poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    return engine


def test_an_older_database_keeps_its_rows_and_their_protection(place: Workspace) -> None:
    old = at_0001(place)
    assert not inspect(old).has_table("requests")
    content: dict[str, Any] = {"result": "PASS", "gate": "g", "model_digest": "a", "against": None, "confidence": 0.95}
    attach(old, sealed({**content, "rules": [], "reports": [], "code_version": "1"}))
    for number in range(3):
        append(old, chain(old, "m"), "register", model="m", version=number + 1, artifact="a", actor="ann")
    before = chain(old, "m")
    new = open_database(place)
    assert chain(new, "m") == before
    check_chain(before)
    assert [one.gate for one in verdicts_of(new, "a")] == ["g"]
    with new.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == SCHEMA
    with pytest.raises(Exception, match="can only be added"), new.begin() as connection:
        connection.execute(text("DELETE FROM decisions"))
    assert open_database(place), "a second time changes nothing"


def test_a_newer_schema_is_not_touched(place: Workspace) -> None:
    with open_database(place).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(EnvironmentFault, match=f"schema 9999, this version of llmops knows up to {SCHEMA}") as told:
        open_database(place)
    assert "update llmops" in told.value.fix


def test_the_newest_migration_is_the_schema_the_code_asks_for() -> None:
    newest = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert newest == llmops.database.SCHEMA


def test_the_code_names_the_columns_that_the_migration_makes(place: Workspace) -> None:
    found = inspect(open_database(place))
    for table in (requests(), captured(), feedback()):
        there = {column["name"]: column["type"].python_type for column in found.get_columns(table.name)}
        assert there == {column.name: column.type.python_type for column in table.columns}
        assert found.get_pk_constraint(table.name)["constrained_columns"] == ["id"]
    assert [column.name for column in requests().columns] == [one.name for one in fields(Entry)]
    assert [column.name for column in captured().columns] == [one.name for one in fields(Captured)]
    assert {tuple(index["column_names"]) for index in found.get_indexes("requests")} == {
        ("at",),
        ("key", "at"),
        ("route", "at"),
    }
