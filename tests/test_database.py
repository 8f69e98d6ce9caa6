"""The database opens in a file or on a server, once for all who come at once, and keeps what it was given."""

from __future__ import annotations

import os
import socket
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DatabaseError

from llmops.database import SCHEMA, open_database
from llmops.errors import EnvironmentFault
from llmops.registry.decisions import append, chain, check_chain
from llmops.registry.verdicts import attach, sealed, verdicts_of
from llmops.workspace import Workspace
from tests.killable import KILLABLE, killable
from tests.newcomers import newcomer

AT_ONCE = 8


@pytest.fixture
def place(each_database: str, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


ON_SERVER = pytest.mark.parametrize("each_database", ["postgresql"], indirect=True)


@KILLABLE
def test_of_eight_who_open_a_new_database_and_decide_at_once_one_wins_and_all_verdicts_stay(place: Workspace) -> None:
    # Workspaces of their own where they share a server, as machines have.
    homes = [place.home if "LLMOPS_DATABASE_URL" not in os.environ else place.home / str(me) for me in range(AT_ONCE)]
    pairs = [Pipe() for _ in homes]
    children = [killable(newcomer, homes[me], me, there) for me, (_, there) in enumerate(pairs)]
    for _, there in pairs:
        there.close()  # of one that ends, nothing is waited for
    try:
        for here, _ in pairs:
            assert here.recv() == "ready"
        for here, _ in pairs:
            here.send("go")
        said = [here.recv() for here, _ in pairs]
        for child in children:
            child.join()
    finally:
        for child in children:
            child.kill()
            child.join()
    assert sorted(child.exitcode or 0 for child in children) == [0] + [2] * (AT_ONCE - 1)
    assert sorted(said)[1:] == ["another decision on m was made at the same moment"] * (AT_ONCE - 1)
    engine = open_database(place)
    (link,) = chain(engine, "m")
    check_chain([link])
    assert children[link.version].exitcode == 0
    assert {one.gate for one in verdicts_of(engine, "a")} == {f"g{me}" for me in range(AT_ONCE)}
    with engine.connect() as connection:
        places = connection.execute(text("SELECT place FROM verdicts ORDER BY place")).scalars().all()
    assert places == list(range(1, AT_ONCE + 1))


def test_rows_can_only_be_added(place: Workspace) -> None:
    engine = open_database(place)
    content: dict[str, Any] = {"result": "PASS", "gate": "g", "model_digest": "a", "against": None, "confidence": 0.95}
    attach(engine, sealed({**content, "rules": [], "reports": [], "code_version": "1"}))
    append(engine, [], "register", model="m", version=1, artifact="a", actor="ann", override=True)
    # The only way to empty a table in SQLite.
    empty = "DELETE FROM {} WHERE true" if engine.dialect.name == "sqlite" else "TRUNCATE {}"
    for table in ("decisions", "verdicts"):
        for change in ("UPDATE {} SET artifact = 'b'", "DELETE FROM {}", empty):
            with pytest.raises(DatabaseError, match=f"rows of {table} can only be added"), engine.begin() as connection:
                connection.execute(text(change.format(table)))
    assert [(one.artifact, one.override) for one in chain(engine, "m")] == [("a", True)]
    assert len(verdicts_of(engine, "a")) == 1


def test_a_change_of_tables_that_fails_leaves_none_of_it(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    create = op.create_table

    def fail(name: str, *columns: Any) -> None:
        if name == "decisions":
            raise OSError("the power is gone")
        create(name, *columns)

    with monkeypatch.context() as broken:
        broken.setattr(op, "create_table", fail)
        with pytest.raises(EnvironmentFault, match="the power is gone"):
            open_database(place)
    assert chain(open_database(place), "m") == [], "the next command makes all of them"


def test_a_database_of_a_newer_version_is_not_touched(place: Workspace) -> None:
    with open_database(place).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(EnvironmentFault, match=f"schema 9999, this version of llmops knows up to {SCHEMA}"):
        open_database(place)


@ON_SERVER
@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_usual_ways_to_write_the_address_are_taken(
    place: Workspace, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = os.environ["LLMOPS_DATABASE_URL"].partition("://")[2]
    monkeypatch.setenv("LLMOPS_DATABASE_URL", f"{scheme}://{rest}")
    assert inspect(open_database(place)).has_table("decisions")
    assert not (place.home / "llmops.db").exists()


def test_a_server_that_is_down_is_named_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, nor can begin to
        port = taken.getsockname()[1]
        address = f"postgres://ann:se%40cret@127.0.0.1:{port}/team?application_name=hidden"
        monkeypatch.setenv("LLMOPS_DATABASE_URL", address)
        with pytest.raises(EnvironmentFault) as told:
            open_database(Workspace(tmp_path))
    assert told.value.problem.startswith(f"the database team on 127.0.0.1:{port} cannot be used: ")
    assert "\n" not in told.value.problem
    for secret in ("se%40cret", "se@cret", "hidden"):
        assert secret not in told.value.problem + told.value.fix


@ON_SERVER
def test_a_server_that_goes_away_later_is_told_in_the_same_words(place: Workspace, postgresql: str) -> None:
    import psycopg

    engine = open_database(place)
    name = os.environ["LLMOPS_DATABASE_URL"].rpartition("/")[2]
    with psycopg.connect(f"{postgresql}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}".encode())
    with pytest.raises(EnvironmentFault, match=f"the database {name} on 127.0.0.1:[0-9]+ cannot be used"):
        chain(engine, "m")


@pytest.mark.parametrize("address", ["nonsense", "postgresql://ann:secret@host:port/x"])
def test_what_is_no_address_is_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_DATABASE_URL", address)
    with pytest.raises(EnvironmentFault) as told:
        open_database(Workspace(tmp_path))
    assert "LLMOPS_DATABASE_URL is no address" in told.value.problem
    assert "secret" not in told.value.problem


def test_a_service_keeps_its_connections_and_a_command_none(place: Workspace) -> None:
    for keep, same in ((None, False), (2, True)):
        engine = open_database(place, keep=keep)
        with engine.connect() as connection:
            first = connection.connection.driver_connection
        with engine.connect() as connection:
            assert (connection.connection.driver_connection is first) is same
        engine.dispose()


@pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)
def test_what_a_change_survives_is_said_where_it_is_opened(place: Workspace) -> None:
    full, normal = 2, 1  # https://www.sqlite.org/pragma.html#pragma_synchronous
    for engine, synced in ((open_database(place), full), (open_database(place, survives="kill"), normal)):
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA synchronous")).scalar() == synced
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
