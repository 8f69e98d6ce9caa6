"""Thumbs of the widget, kept in the ledger beside those that clients sent to `/v1/feedback`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from llmops.feedback.widget_pages import Keep, Thumb
from llmops.serve import ledger_tables
from llmops.serve.hooks import Feedback

if TYPE_CHECKING:
    from sqlalchemy import Engine

BY = "widget:"
"""What the key of such a row begins with; no client's key is called so."""


def kept_in_ledger(engine: Engine) -> Keep:
    """What stores a thumb: the same again is stored once, another one of the same token corrects the one before."""
    from sqlalchemy import select
    from sqlalchemy.exc import IntegrityError

    table = ledger_tables.feedback()

    def keep(thumb: Thumb) -> None:
        by = BY + thumb.by[:32]
        said: Literal["up", "down"] = "up" if thumb.up else "down"
        given = Feedback(thumb.request, thumb.at, caller=by, thumbs=said, comment=thumb.comment or None)
        mine = select(table).where(table.c.request == thumb.request, table.c.key == by).order_by(table.c.at)
        try:
            with engine.begin() as connection:
                before = connection.execute(mine).all()
                # Of two that are the same and arrive at once, the second finds the first one's name taken.
                name = hashlib.sha256(f"{len(before)}\n{by}\n{thumb.request}".encode()).hexdigest()[:32]
                row = ledger_tables.feedback_row(name, given)
                if before and (before[-1].thumb, before[-1].comment) == (row["thumb"], row["comment"]):
                    return
                connection.execute(table.insert(), row)
        except IntegrityError:
            with engine.connect() as connection:
                newest = connection.execute(mine).all()
            if not newest or newest[-1].thumb != said:
                raise

    return keep
