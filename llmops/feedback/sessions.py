"""Who is signed in: random secrets in cookies, of which the database holds digests; idle and absolute ends."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmops.feedback.accounts import end_sessions
from llmops.feedback.settings import Sessions as Lengths
from llmops.feedback.tables import table
from llmops.feedback.visitor import Visitor
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Engine, Select

_SECRET_BYTES = 32
_TOUCH_S = 60.0
"""How exactly it is known when somebody was last here: not every request shall write."""


@dataclass(frozen=True, slots=True)
class OneSession:
    """A session as its owner sees it."""

    digest: str
    at: float
    seen: float


class SignedIn:
    """The sessions in the database."""

    def __init__(self, engine: Engine, lengths: Lengths, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._lengths = lengths
        self._clock = clock

    @cached_property
    def _whose(self) -> Select[Any]:
        """A session with its person, once for each campaign of theirs; made once, since every request asks it."""
        from sqlalchemy import bindparam, select

        sessions, people, memberships = table("people_sessions"), table("people"), table("memberships")
        return (
            select(sessions, people.c.login, people.c.name, people.c.role, memberships.c.campaign)
            .join(people, people.c.rater == sessions.c.rater)
            .outerjoin(memberships, memberships.c.rater == sessions.c.rater)
            .where(
                sessions.c.digest == bindparam("digest"),
                sessions.c.until > bindparam("now"),
                sessions.c.seen > bindparam("idle"),
                people.c.ended.is_(None),
            )
        )

    @property
    def longest_s(self) -> float:
        """Seconds after which a session ends in any case."""
        return self._lengths.longest_hours * 3600

    def begin(self, rater: str, *, instead: str | None = None) -> str:
        """A new session's secret; the session that the browser had before ends, so that none can be planted.

        Args:
            instead: the secret that the browser sent.
        """
        from sqlalchemy import delete, insert

        sessions, now, secret = table("people_sessions"), self._clock(), secrets.token_urlsafe(_SECRET_BYTES)
        with writing(self._engine) as connection:
            if instead:
                connection.execute(delete(sessions).where(sessions.c.digest == digest(instead)))
            over = (sessions.c.until <= now) | (sessions.c.seen <= now - self._lengths.idle_hours * 3600)
            connection.execute(delete(sessions).where(over))
            connection.execute(
                insert(sessions).values(
                    digest=digest(secret),
                    rater=rater,
                    csrf=secrets.token_urlsafe(_SECRET_BYTES),
                    at=now,
                    seen=now,
                    until=now + self.longest_s,
                )
            )
        return secret

    def visitor(self, secret: str) -> Visitor | None:
        """Whose session it is; None where it is none, or over, or its account is closed."""
        from sqlalchemy import update

        now = self._clock()
        asked = {"digest": digest(secret), "now": now, "idle": now - self._lengths.idle_hours * 3600}
        with self._engine.connect() as connection:
            rows = connection.execute(self._whose, asked).all()
        if not rows:
            return None
        row = rows[0]
        found = Visitor(
            rater=row.rater,
            login=row.login,
            name=row.name,
            role=row.role,
            campaigns=frozenset(one.campaign for one in rows if one.campaign is not None),
            csrf=row.csrf,
            session=row.digest,
        )
        if now - row.seen > _TOUCH_S:
            sessions = table("people_sessions")
            with writing(self._engine) as connection:
                connection.execute(update(sessions).where(sessions.c.digest == row.digest).values(seen=now))
        return found

    def of(self, rater: str) -> list[OneSession]:
        """Somebody's sessions, the newest first."""
        from sqlalchemy import select

        sessions = table("people_sessions")
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(sessions).where(sessions.c.rater == rater).order_by(sessions.c.at.desc())
            ).all()
        return [OneSession(row.digest, row.at, row.seen) for row in rows]

    def end(self, session: str) -> None:
        """End the session with this digest."""
        from sqlalchemy import delete

        sessions = table("people_sessions")
        with writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == session))

    def end_others(self, visitor: Visitor) -> None:
        """End all of somebody's sessions but the one they ask in."""
        with writing(self._engine) as connection:
            end_sessions(connection, visitor.rater, but=visitor.session)


def digest(secret: str) -> str:
    """What is kept of a secret of 256 random bits; nobody guesses those, so one pass is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
