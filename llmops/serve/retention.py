"""Erases what the ledger need not keep any longer, a few rows at a time, so that writing is never held up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmops.serve.keeping import DAY_S
from llmops.serve.ledger_tables import captured, feedback, requests

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

EVERY_S = 60.0
AT_ONCE = 500


class Retention:
    """What is due for erasure, looked for once a minute."""

    def __init__(self, keep_days: float | None, clock: Callable[[], float]) -> None:
        """Erase requests and feedback after `keep_days`, where that is given, and captures at their own time."""
        self._keep_days = keep_days
        self._clock = clock
        self._next = float("-inf")

    def erase_some(self, connection: Connection) -> bool:
        """Erase at most 500 rows of each table in a transaction; whether there may be more."""
        now = self._clock()
        if self._next - EVERY_S <= now < self._next:  # a clock set back to long ago is no reason to wait for years
            return False
        due: list[tuple[Table, ColumnElement[bool]]] = [(captured(), captured().c.until <= now)]
        if self._keep_days is not None:
            since = now - self._keep_days * DAY_S
            due += [(requests(), requests().c.at < since), (feedback(), feedback().c.at < since)]
        with connection.begin():
            erased = [_erase(connection, table, where) for table, where in due]
        more = max(erased) == AT_ONCE
        if not more:
            self._next = now + EVERY_S
        return more


def _erase(connection: Connection, table: Table, where: ColumnElement[bool]) -> int:
    from sqlalchemy import delete, select

    some = select(table.c.id).where(where).limit(AT_ONCE)
    return connection.execute(delete(table).where(table.c.id.in_(some))).rowcount
