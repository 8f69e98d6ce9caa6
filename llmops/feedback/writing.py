"""Transactions of the rating service: what changes together is written together, and who waits is served in turn."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


_TOGETHER = 8
"""Transactions at most that share one commit: each of them waits for all the others."""


@dataclass
class _Group:
    """Transactions of several threads, made in turn within one of SQLite's: the disk is waited for once.

    Attributes:
        fault: why nothing of it was stored.
        over: it is stored, or it is not.
    """

    connection: Connection
    size: int = 0
    fault: BaseException | None = None
    over: Event = field(default_factory=Event)

    @contextmanager
    def part(self) -> Iterator[Connection]:
        """One of them; where it fails, nothing of it is left, and the others stand."""
        driver: Any = self.connection.connection.driver_connection
        self.size += 1
        driver.execute("SAVEPOINT part")
        try:
            yield self.connection
            driver.execute("RELEASE part")
        except BaseException as error:
            # After some faults, such as a full disk, SQLite has taken all of it back by itself.
            if driver.in_transaction:
                driver.execute("ROLLBACK TO part")
                driver.execute("RELEASE part")
            else:
                self.fault = error
            raise

    def end(self) -> None:
        """Store it."""
        driver: Any = self.connection.connection.driver_connection
        try:
            if self.fault is None:
                self.connection.commit()
        except BaseException as error:
            self.fault = error
        finally:
            driver.rollback()  # SQLAlchemy takes a commit that failed for an end, and would keep the file locked
            self.connection.close()
            self.over.set()


@dataclass
class _Turn:
    """Somebody who waits; `brief` as `writing` means it."""

    brief: bool
    come: Lock = field(default_factory=Lock)


class _Queue:
    """A lock that is handed on in the order of asking; Python's own may let one thread wait for ever. What somebody
    has done is stored before others are given something to do. Who is brief hands on the transaction too, to who
    follows and is brief, and all of them wait for the one commit."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._held = False
        self._urgent: deque[_Turn] = deque()
        self._waiting: deque[_Turn] = deque()
        self._group: _Group | None = None
        """The transaction that is open; belongs to who has the turn."""

    @contextmanager
    def transaction(self, engine: Engine, *, urgent: bool, brief: bool) -> Iterator[Connection]:
        self._wait(urgent=urgent, brief=brief)
        try:
            group = self._group = self._group or _begun(engine)
        except BaseException:
            self._hand_on()
            raise
        try:
            with group.part() as connection:
                yield connection
        finally:
            self._leave(group, brief=brief)

    def _wait(self, *, urgent: bool, brief: bool) -> None:
        turn = _Turn(brief)
        turn.come.acquire()
        with self._guard:
            wait = self._held
            self._held = True
            if wait:
                (self._urgent if urgent else self._waiting).append(turn)
        if wait:
            turn.come.acquire()

    def _leave(self, group: _Group, *, brief: bool) -> None:
        if brief and group.fault is None and group.size < _TOGETHER and self._hand_on(brief=True):
            group.over.wait()
        else:
            self._group = None
            group.end()
            self._hand_on()
        if group.fault is not None:
            raise group.fault

    def _hand_on(self, *, brief: bool = False) -> bool:
        """Give the turn to who is next, if they are brief; whether there was somebody. Where not, it is still held."""
        with self._guard:
            line = self._urgent or self._waiting
            if brief and not (line and line[0].brief):
                return False
            if line:
                line.popleft().come.release()
            else:
                self._held = False
            return True


def _begun(engine: Engine) -> _Group:
    connection = engine.connect()
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except BaseException:
        connection.close()
        raise
    return _Group(connection)


_QUEUES: WeakKeyDictionary[Engine, _Queue] = WeakKeyDictionary()
_MAKING = Lock()


@contextmanager
def writing(
    engine: Engine,
    *,
    campaign: str | Sequence[str] = (),
    rater: str | None = None,
    urgent: bool = False,
    brief: bool = False,
) -> Iterator[Connection]:
    """One transaction that writes in a campaign, or several, on behalf of a rater.

    On SQLite there is one writer at a time; within this process they queue, since SQLite itself lets them try again
    and again, where the unlucky wait for seconds. On PostgreSQL all go on beside each other; only what the same rater
    does is done one after the other, and nothing else happens in a campaign while it is rebuilt (`alone`).

    Args:
        urgent: goes before what is not.
        brief: takes milliseconds, so that others who wait may be made to last by the same commit, on SQLite: it is the
            disk that takes longest. Each is still all or nothing, and ends when it is stored.
    """
    if engine.dialect.name == "sqlite":
        with _queue(engine).transaction(engine, urgent=urgent, brief=brief) as connection:
            yield connection
        return
    from sqlalchemy import BigInteger, func, literal, select

    campaigns = [campaign] if isinstance(campaign, str) else sorted(campaign)
    locks = [func.pg_advisory_xact_lock_shared(literal(_key("campaign", name), BigInteger)) for name in campaigns]
    if rater is not None:
        locks.append(func.pg_advisory_xact_lock(literal(_key("rater", rater), BigInteger)))
    with engine.begin() as connection:
        if locks:
            connection.execute(select(*locks))
        yield connection


@contextmanager
def alone(engine: Engine, campaign: str) -> Iterator[Connection]:
    """One transaction that writes while nobody else does in this campaign."""
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            from sqlalchemy import text

            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key("campaign", campaign)})
        yield connection


def _queue(engine: Engine) -> _Queue:
    with _MAKING:
        return _QUEUES.setdefault(engine, _Queue())


def _key(kind: str, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"llmops {kind} {name}".encode()).digest()[:8], signed=True)
