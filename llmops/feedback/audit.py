"""What was done around ratings as a chain, in which every link holds the digest of the one before: an event that was
changed, removed or slipped in afterwards breaks it at its place.

A link is added where an event is, unless another transaction adds links at that moment: nobody waits for the chain, and
the next one takes along what was left. Leases are no part of it: they come by the thousand and decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.errors import EnvironmentFault, InputError
from llmops.feedback.tables import table
from llmops.feedback.writing import writing
from llmops.files import digest_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import RowMapping

OF_LEASES = ("extended", "released")
_LOCK = 0x11_0B_5A_0D_17
"""Of PostgreSQL, for whoever adds links."""


@dataclass(frozen=True, slots=True)
class Audit:
    """A chain that holds; `head` is the digest of its last link, "" where it has none."""

    events: int
    head: str


def note(connection: Connection, event: str) -> None:
    """Take an event that this transaction wrote into the chain, now or with the next."""
    connection.execute(table("events_to_link").insert(), {"event": event})
    _link(connection)


def verify(engine: Engine, *, contains: str | None = None) -> Audit:
    """Read the whole chain.

    Args:
        contains: the head of an earlier look, which is then one of its links: without that, the newest links and their
            events together could be gone.

    Raises:
        EnvironmentFault: it does not hold; where is said.
        InputError: `contains` is none of its links.
    """
    from sqlalchemy import select

    with writing(engine) as connection:
        _link(connection)
    events, links, waiting = table("rating_events"), table("event_links"), table("events_to_link")
    count, head, found = 0, "", not contains
    with engine.connect() as connection:
        every = select(links, *_columns()).outerjoin(events, events.c.id == links.c.event).order_by(links.c.sequence)
        with connection.execution_options(yield_per=1000).execute(every) as rows:
            for row in rows.mappings():
                count += 1
                holds = row["id"] is not None and (row["sequence"], row["previous"]) == (count, head)
                if not holds or row["digest"] != _digest(row, head):
                    raise _tampered(f"number {count} does not follow from those before, or is not what was written")
                head = row["digest"]
                found = found or head == contains
        known = select(links.c.event).union(select(waiting.c.event))
        slipped = select(events.c.id).where(events.c.kind.not_in(OF_LEASES), events.c.id.not_in(known)).limit(1)
        if (one := connection.execute(slipped).scalar()) is not None:
            raise _tampered(f"the event {one} is in no link")
    if not found:
        raise InputError(
            f"no link of the chain is {contains!r}",
            fix="give the whole head that an earlier `llmops feedback verify` told; if it is, events were removed",
        )
    return Audit(count, head)


def _link(connection: Connection) -> None:
    """Add links for all events that wait for one, unless somebody else does."""
    from sqlalchemy import delete, func, select

    if (
        connection.dialect.name == "postgresql"
        and not connection.execute(select(func.pg_try_advisory_xact_lock(_LOCK))).scalar()
    ):
        return
    events, links, waiting = table("rating_events"), table("event_links"), table("events_to_link")
    last = connection.execute(select(links).order_by(links.c.sequence.desc()).limit(1)).first()
    sequence, previous = (0, "") if last is None else (last.sequence, last.digest)
    chosen = select(*_columns()).join(waiting, waiting.c.event == events.c.id).order_by(events.c.at, events.c.id)
    rows = []
    for event in connection.execute(chosen).mappings():
        sequence, digest = sequence + 1, _digest(event, previous)
        rows.append({"sequence": sequence, "event": event["id"], "previous": previous, "digest": digest})
        previous = digest
    if rows:
        connection.execute(links.insert(), rows)
        connection.execute(delete(waiting).where(waiting.c.event.in_([row["event"] for row in rows])))


def _columns() -> list[Any]:
    return list(table("rating_events").c)


def _digest(event: RowMapping, previous: str) -> str:
    return digest_of({"previous": previous, "event": {column.name: event[column.name] for column in _columns()}})


def _tampered(where: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the record of what was done around ratings was tampered with: {where}",
        fix="compare the database with a backup made before",
    )
