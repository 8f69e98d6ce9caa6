"""The record of every request, written by a thread of its own, so that serving never waits for a database.

A row is in the database half a second after its request ended, or when 500 wait. While the database is away or the
disk full, rows wait in memory and `status` says how many; a kill loses what waits, never part of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmops.errors import EnvironmentFault
from llmops.serve.capture import Capturing
from llmops.serve.entry import Captured, Entry
from llmops.serve.hooks import Feedback
from llmops.serve.ledger_tables import LONGEST, captured, captured_row, feedback, feedback_row, request_row, requests
from llmops.serve.refusal import Refusal
from llmops.serve.retention import Retention
from llmops.serve.waiting import Waiting

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

EVERY_S = 0.1
AT_ONCE = 500
_GENTLY = 25
_CAPTURES_AT_ONCE = 8
_CAPTURES_BYTES = 64_000_000
_LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """How far the record is behind.

    Attributes:
        behind: rows that wait in memory.
        dropped: rows lost because too many waited; captures among them.
        refused: rows the database took under no circumstances.
        problem: why nothing can be written at the moment; None where it can.
    """

    behind: int
    dropped: int
    refused: int
    problem: str | None


class Ledger:
    """Where the gateway leaves what is to be recorded."""

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        *,
        behind_rows: int = 100_000,
        keep_days: float | None = None,
        every_s: float = EVERY_S,
        on_open: Callable[[Engine], None] = lambda engine: None,
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A ledger that writes once it is started.

        Args:
            open_engine: opens the database; called by the writer, and again until it succeeds.
            every_s: seconds between two batches that are not full.
            on_open: called by the writer once the database is open and before anything of this process is in it.
            tell: hears when the database goes away, comes back, or refuses a row.
            clock: Unix time, for retention.
        """
        self._open_engine = open_engine
        self._on_open = on_open
        self._tell = tell
        self._every_s = every_s
        self._entries: Waiting[Entry] = Waiting(behind_rows)
        self._given: Waiting[tuple[str, Feedback]] = Waiting(behind_rows)
        self._captures: Waiting[Capturing] = Waiting(_CAPTURES_BYTES, size=lambda one: one.size)
        self._ready: list[dict[str, Any]] = []
        self._retention = Retention(keep_days, clock)
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._problem: str | None = None
        self._refused = 0
        self._wake = Event()
        self._closing = False
        self._give_up_at = float("inf")
        self._writer = Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    def record(self, entry: Entry) -> None:
        """Leave an entry to be written; takes microseconds. Its id must be its own: an id is written once."""
        if self._entries.put(entry.id, entry) == AT_ONCE:
            self._wake.set()

    def capture(self, captured: Captured, *, redact: bool) -> None:
        """Leave a prompt and its answer to be read, redacted and written; bodies as bytes cost least until then."""
        self._captures.put(captured.id, Capturing(captured, redact))

    def feedback(self, given: Feedback) -> None:
        """Leave feedback to be written. It may have to ask the database first: call it in a thread, not on a loop.

        Raises:
            Refusal: 404 for a request that nobody made, or that another key made; 503 where the database is away.
        """
        try:
            entry = self.find(given.request)
        except EnvironmentFault as error:
            raise Refusal(503, error.problem, code="ledger_unavailable", retry_after=_LONGEST_WAIT_S) from error
        # Of another key's request it is not told that there is one.
        if entry is None or entry.key != given.caller:
            raise Refusal(
                404,
                f"there is no request {given.request[:LONGEST]!r} of yours; its id is in the answer's x-request-id",
                code="request_not_found",
                param="request_id",
            )
        name = uuid4().hex
        self._given.put(name, (name, given))

    def find(self, request: str) -> Entry | None:
        """The entry of a request, written or not; None where there is none. It may ask the database: not on a loop.

        Raises:
            EnvironmentFault: the database is away, so that nobody knows.
        """
        from llmops.serve.ledger_usage import entry

        if (waiting := self._entries.find(request)) is not None:
            return waiting
        if self._engine is None:
            raise EnvironmentFault(
                f"the ledger cannot be read: {self._problem or 'it is being opened'}", fix="ask again later"
            )
        # Between the look at what waits and the look into the database it may have been written, not the other way.
        return entry(self._engine, request)

    def behind(self) -> int:
        """Rows that wait in memory."""
        return len(self._entries) + len(self._given) + len(self._captures)

    def status(self) -> LedgerStatus:
        dropped = self._entries.dropped + self._given.dropped + self._captures.dropped
        return LedgerStatus(self.behind(), dropped, self._refused, self._problem)

    def close(self, *, wait_s: float = 10.0) -> int:
        """Write what waits and stop; returns the rows that could not be written in `wait_s`."""
        self._give_up_at = time.monotonic() + wait_s
        self._closing = True
        self._wake.set()
        if self._writer.is_alive():
            self._writer.join(wait_s)
        return self.behind()

    # ── the writer ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        wait = 0.0
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            closing = self._closing
            try:
                self._write_all()
                wait = self._every_s
            except Exception as error:
                # Whatever it is, serving goes on and rows wait; the next attempt begins with a fresh connection.
                self._away(error)
                wait = self._every_s if closing else min(max(wait, self._every_s) * 2, _LONGEST_WAIT_S)
            if closing and (not self.behind() or time.monotonic() >= self._give_up_at):
                break
        self._disconnect()

    def _write_all(self) -> None:
        connection = self._connected()
        more = True
        while more:
            more = self._write_some(connection)
            if self._problem is not None:
                self._problem = None
                self._tell("the ledger is written again")
            # What is to be kept for months is written before what is to be erased.
            if not more and not self._closing:
                more = self._retention.erase_some(connection)

    def _write_some(self, connection: Connection) -> bool:
        """One batch, in a transaction of its own; whether there may be more."""
        entries, given = self._entries.take(AT_ONCE), self._given.take(AT_ONCE)
        if entries or given:
            self._insert(
                connection,
                (requests(), list(_gently(entries))),
                (feedback(), [feedback_row(name, one) for name, one in given]),
            )
            self._entries.done()
            self._given.done()
        waiting = self._captures.take(_CAPTURES_AT_ONCE)
        if waiting:
            self._ready = self._ready or [row for one in waiting for row in self._captured_rows(one)]
            self._insert(connection, (captured(), self._ready))
            self._captures.done()
            self._ready = []
        return len(entries) == AT_ONCE or len(given) == AT_ONCE or len(waiting) == _CAPTURES_AT_ONCE

    def _captured_rows(self, one: Capturing) -> list[dict[str, Any]]:
        try:
            return [captured_row(one.settled())]
        except (ValueError, TypeError, RecursionError) as error:  # nested too deeply, or no answer of this world
            self._refused += 1
            self._tell(f"prompt and answer of {one.captured.id} cannot be kept: {_first_line(error)}")
            return []

    def _insert(self, connection: Connection, *tables: tuple[Table, list[dict[str, Any]]]) -> None:
        try:
            with connection.begin():
                for table, rows in tables:
                    _insert(connection, table, rows)
        except Exception as error:
            if not _is_of_a_row(error):
                raise
            for table, rows in tables:
                for row in rows:
                    self._insert_alone(connection, table, row)

    def _insert_alone(self, connection: Connection, table: Table, row: dict[str, Any]) -> None:
        try:
            with connection.begin():
                _insert(connection, table, [row])
        except Exception as error:
            if not _is_of_a_row(error):
                raise
            self._refused += 1
            self._tell(f"the ledger's database refuses the row {row['id']} of {table.name}: {_first_line(error)}")

    def _connected(self) -> Connection:
        if self._connection is None:
            engine = self._open_engine() if self._engine is None else self._engine
            connection = engine.connect()
            if engine.dialect.name == "sqlite":
                # What is erased is overwritten, not only forgotten.
                connection.exec_driver_sql("PRAGMA secure_delete=ON")
                connection.commit()
            if self._engine is None:
                try:
                    self._on_open(engine)
                except BaseException:
                    connection.close()
                    raise
            self._engine, self._connection = engine, connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _away(self, error: Exception) -> None:
        self._disconnect()
        problem = _first_line(error)
        if self._problem is None:
            self._tell(f"the ledger cannot be written, rows wait in memory: {problem}")
        self._problem = problem


def _gently(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """Rows of entries; now and then it lets the thread run that serves, which would wait for this one otherwise."""
    for place, one in enumerate(entries, 1):
        yield request_row(one)
        if not place % _GENTLY:
            time.sleep(0)


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows; those that are there already stay, so that a batch whose fate is unknown can be sent again."""
    if not rows:
        return
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(table).on_conflict_do_nothing(index_elements=["id"]), rows)


def _is_of_a_row(error: Exception) -> bool:
    """Whether a value in a row is at fault, so that other rows can be written."""
    from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError) and not error.connection_invalidated
    return isinstance(error, StatementError | ValueError | OverflowError | TypeError)


def _first_line(error: Exception) -> str:
    said = error.problem if isinstance(error, EnvironmentFault) else str(getattr(error, "orig", None) or error)
    return said.strip().splitlines()[0] if said.strip() else type(error).__name__
