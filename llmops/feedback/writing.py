"""Transactions of the rating service: what changes together is written together, and who waits is served in turn."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class _Queue:
    """A lock that is handed on in the order of asking; Python's own may let one thread wait for ever. What somebody
    has done is stored before others are given something to do."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._held = False
        self._urgent: deque[Lock] = deque()
        self._waiting: deque[Lock] = deque()

    @contextmanager
    def turn(self, *, urgent: bool) -> Iterator[None]:
        turn = Lock()
        turn.acquire()
        with self._guard:
            wait = self._held
            self._held = True
            if wait:
                (self._urgent if urgent else self._waiting).append(turn)
        if wait:
            turn.acquire()
        try:
            yield
        finally:
            with self._guard:
                if following := self._urgent or self._waiting:
                    following.popleft().release()
                else:
                    self._held = False


_QUEUES: WeakKeyDictionary[Engine, _Queue] = WeakKeyDictionary()
_MAKING = Lock()


@contextmanager
def writing(
    engine: Engine, *, campaign: str | Sequence[str] = (), rater: str | None = None, urgent: bool = False
) -> Iterator[Connection]:
    """One transaction that writes in a campaign, or several, on behalf of a rater.

    On SQLite there is one writer at a time; within this process they queue, since SQLite itself lets them try again
    and again, where the unlucky wait for seconds. On PostgreSQL all go on beside each other; only what the same rater
    does is done one after the other, and nothing else happens in a campaign while it is rebuilt (`alone`).

    Args:
        urgent: goes before what is not.
    """
    if engine.dialect.name == "sqlite":
        with _queue(engine).turn(urgent=urgent), engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
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
