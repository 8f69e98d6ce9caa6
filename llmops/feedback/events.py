"""What happened, in the order it happened: written beside every change that is no rating, never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmops.feedback import audit
from llmops.feedback.items import Event
from llmops.feedback.tables import table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SERVICE = "service"
"""The actor where nobody asked for it."""


def write_event(
    connection: Connection,
    kind: str,
    subject: str,
    *,
    at: float,
    campaign: str | None = None,
    actor: str = SERVICE,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add one; it stands once the transaction does."""
    name = uuid4().hex
    connection.execute(
        table("rating_events").insert(),
        {
            "id": name,
            "campaign": campaign,
            "at": at,
            "kind": kind,
            "subject": subject,
            "actor": actor,
            "detail": json.dumps(detail or {}, ensure_ascii=False),
        },
    )
    if kind not in audit.OF_LEASES:
        audit.note(connection, name)


def events(
    engine: Engine, *, campaign: str | None = None, kind: str | None = None, subject: str | None = None
) -> Iterator[Event]:
    """Those of a campaign, a kind, a subject, in the order of their times; all of them where nothing is named."""
    from sqlalchemy import select

    rows = table("rating_events")
    wanted = select(rows).order_by(rows.c.at, rows.c.id)
    for column, value in ((rows.c.campaign, campaign), (rows.c.kind, kind), (rows.c.subject, subject)):
        if value is not None:
            wanted = wanted.where(column == value)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=1000).execute(wanted):
            yield Event(row.id, row.campaign, row.at, row.kind, row.subject, row.actor, json.loads(row.detail))
