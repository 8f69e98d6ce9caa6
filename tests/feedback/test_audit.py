"""The chain of what was done holds, whoever writes at once, and breaks wherever it was laid hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, insert, text, update

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.feedback.audit import Audit, verify
from llmops.feedback.desk import Desk
from llmops.feedback.events import events, write_event
from llmops.feedback.raters import pause, resume
from llmops.feedback.store import reopen
from llmops.feedback.tables import table
from llmops.feedback.tasks import Task
from llmops.feedback.writing import writing
from llmops.workspace import Workspace
from tests.feedback.small_campaigns import Clock, start


def several(engine: Engine) -> Audit:
    """A few events; the chain over them."""
    start(engine, 3, raters=["ann"])
    pause(engine, "c", "ann", actor="owner", reason="first")
    resume(engine, "c", "ann", actor="owner", reason="talked")
    pause(engine, "c", "ann", actor="owner", reason="again")
    return verify(engine)


def test_each_event_is_a_link_and_leases_are_none(both: Engine) -> None:
    assert verify(both) == Audit(0, "")
    found = several(both)
    assert found.events == 3
    clock = Clock()
    desk = Desk(both, clock=clock)
    resume(both, "c", "ann", actor="owner", reason="")
    task = desk.next("c", "ann")
    assert isinstance(task, Task)
    clock.now += 600
    desk.extend(task.assignment, "ann")
    desk.release(task.assignment, "ann")
    assert {one.kind for one in events(both)} >= {"extended", "released"}
    later = verify(both)
    assert later.events == 4
    assert verify(both, contains=found.head) == later
    with pytest.raises(InputError, match="no link of the chain"):
        verify(both, contains="0" * 64)


@contextmanager
def laying_hands_on(engine: Engine) -> Iterator[Connection]:
    """A transaction that the tables' guards let do anything, as who owns the database can."""
    postgresql = engine.dialect.name == "postgresql"
    with engine.begin() as connection:
        if postgresql:
            for name in ("rating_events", "event_links"):
                connection.execute(text(f"ALTER TABLE {name} DISABLE TRIGGER USER"))
        else:
            rows = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
            for name in rows:
                connection.execute(text(f"DROP TRIGGER {name}"))
        yield connection
        if postgresql:
            for name in ("rating_events", "event_links"):
                connection.execute(text(f"ALTER TABLE {name} ENABLE TRIGGER USER"))


def _second(connection: Connection) -> Any:
    links = table("event_links")
    return connection.execute(links.select().where(links.c.sequence == 2)).one()


def changed_event(connection: Connection) -> None:
    rows = table("rating_events")
    change = update(rows).where(rows.c.id == _second(connection).event).values(actor="somebody else")
    connection.execute(change)


def removed_event(connection: Connection) -> None:
    rows = table("rating_events")
    connection.execute(delete(rows).where(rows.c.id == _second(connection).event))


def removed_link(connection: Connection) -> None:
    links = table("event_links")
    connection.execute(delete(links).where(links.c.sequence == 2))


def removed_with_its_link(connection: Connection) -> None:
    removed_event(connection)
    removed_link(connection)


def relinked(connection: Connection) -> None:
    """As `changed_event`, and the digest of its own link made anew by somebody who knows how."""
    from llmops.feedback.audit import _digest

    changed_event(connection)
    rows, links, second = table("rating_events"), table("event_links"), _second(connection)
    event = connection.execute(rows.select().where(rows.c.id == second.event)).mappings().one()
    digest = _digest(event, second.previous)
    connection.execute(update(links).where(links.c.sequence == 2).values(digest=digest))


def slipped_in(connection: Connection) -> None:
    rows = table("rating_events")
    event = {"id": "x", "campaign": "c", "at": 1.0, "kind": "resumed", "subject": "ann", "actor": "owner"}
    connection.execute(insert(rows), {**event, "detail": "{}"})


HANDS = [changed_event, removed_event, removed_link, removed_with_its_link, relinked, slipped_in]


@pytest.mark.parametrize("hands", HANDS)
def test_whatever_was_laid_hands_on_is_found(both: Engine, hands: Callable[[Connection], None]) -> None:
    several(both)
    with laying_hands_on(both) as connection:
        hands(connection)
    with pytest.raises(EnvironmentFault, match="tampered with"):
        verify(both)


def test_a_missing_end_is_found_by_who_kept_the_head(both: Engine) -> None:
    head = several(both).head
    with laying_hands_on(both) as connection:
        links, rows = table("event_links"), table("rating_events")
        last = connection.execute(links.select().order_by(links.c.sequence.desc()).limit(1)).one()
        connection.execute(delete(links).where(links.c.sequence == last.sequence))
        connection.execute(delete(rows).where(rows.c.id == last.event))
    assert verify(both).events == 2
    with pytest.raises(InputError, match="no link of the chain"):
        verify(both, contains=head)


def test_many_at_once_make_one_chain_and_none_waits_for_another(both: Engine) -> None:
    start(both, 40, raters=["ann"])
    with both.connect() as connection:
        names = list(connection.execute(table("openings").select()).scalars())

    def work(number: int) -> None:
        # Each twice, in opposite orders of rows: whoever waited for the chain as well could wait for ever.
        reopen(both, "c", names[number % 10 :: 10], actor=f"owner-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert verify(both).events == len([one for one in events(both) if one.kind == "reopened"]) == 24 * 4


def test_what_is_taken_back_leaves_no_link(both: Engine) -> None:
    before = several(both)

    def taken_back() -> None:
        with writing(both, campaign="c") as connection:
            write_event(connection, "reopened", "x", at=1.0, campaign="c", actor="owner")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        taken_back()
    assert verify(both) == before


def test_what_was_done_before_there_was_a_chain_is_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of the version before, with its events, opened by this one."""
    from alembic import command

    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    home = Workspace(tmp_path / "home")
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0003"))
        old = open_database(home)
        with old.begin() as connection:
            for number, kind in enumerate(["paused", "extended", "resumed"]):
                event = {"id": f"e{number}", "campaign": "c", "at": 3.0 - number, "kind": kind, "subject": "ann"}
                connection.execute(insert(table("rating_events")), {**event, "actor": "owner", "detail": "{}"})
        old.dispose()
    engine = open_database(home)
    assert verify(engine).events == 2
    with writing(engine, campaign="c") as connection:
        write_event(connection, "paused", "ann", at=4.0, campaign="c", actor="owner")
    assert verify(engine).events == 3
