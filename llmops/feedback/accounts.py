"""The people of the rating service: their logins, passwords, roles and campaigns. Nobody registers themselves."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError, nearest
from llmops.feedback.events import write_event
from llmops.feedback.passwords import Passwords, check_new
from llmops.feedback.raters import insert_rater, pseudonym
from llmops.feedback.tables import table
from llmops.feedback.visitor import EVERY, Role
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Row, Select

_LOGIN = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of text around, and with it the words beside."""


@dataclass(frozen=True, slots=True)
class Person:
    """One account.

    Attributes:
        rater: the pseudonym that ratings carry.
        campaigns: names of those they may rate in, or own; may hold `EVERY`.
        languages, qualifications: what they read and may, as campaigns ask for it.
        vouched: an OpenID provider says who they are.
        ended: when it was closed, in seconds since 1970; None while it is open.
    """

    rater: str
    login: str
    name: str
    role: Role
    campaigns: frozenset[str]
    languages: tuple[str, ...]
    qualifications: tuple[str, ...]
    vouched: bool
    at: float
    ended: float | None

    def knows(self, campaign: str) -> bool:
        """Whether the campaign exists for them at all."""
        return self.role == "admin" or EVERY in self.campaigns or campaign in self.campaigns

    def owns(self, campaign: str) -> bool:
        """Whether they see its models, its raters and its numbers."""
        return self.role == "admin" or (self.role == "owner" and self.knows(campaign))


class Accounts:
    """People in the database."""

    def __init__(self, engine: Engine, passwords: Passwords, *, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.passwords = passwords
        self.clock = clock

    def check(self, login: str, password: str) -> str | None:
        """The pseudonym of whose login and password these are; None, after the same time, for anybody else."""
        from sqlalchemy import select, update

        people = table("people")
        with self.engine.connect() as connection:
            found = connection.execute(
                select(people.c.rater, people.c.password).where(
                    people.c.login == plain_login(login), people.c.ended.is_(None)
                )
            ).one_or_none()
        kept = found.password if found is not None else None
        if not self.passwords.fits(password, kept) or found is None or kept is None:
            return None
        if self.passwords.stale(kept):
            again = self.passwords.hash(password)
            with writing(self.engine) as connection:
                connection.execute(
                    update(people)
                    .where(people.c.rater == found.rater, people.c.password == kept)
                    .values(password=again)
                )
        return str(found.rater)

    def vouched(self, subject: str) -> str | None:
        """The pseudonym of the open account of an OpenID provider's subject."""
        from sqlalchemy import select

        people = table("people")
        with self.engine.connect() as connection:
            found = connection.execute(
                select(people.c.rater).where(people.c.subject == subject, people.c.ended.is_(None))
            ).scalar_one_or_none()
        return None if found is None else str(found)

    def people(self) -> list[Person]:
        """All accounts, the oldest first, closed ones too."""
        from sqlalchemy import select

        people, memberships = table("people"), table("memberships")
        with self.engine.connect() as connection:
            rows = connection.execute(_with_skills().order_by(people.c.at, people.c.rater)).all()
            members: dict[str, set[str]] = {}
            for row in connection.execute(select(memberships.c.rater, memberships.c.campaign)):
                members.setdefault(row.rater, set()).add(row.campaign)
        return [_person(row, members.get(row.rater, set())) for row in rows]

    def person(self, rater: str) -> Person:
        """One account.

        Raises:
            InputError: there is none.
        """
        from sqlalchemy import select

        people, memberships = table("people"), table("memberships")
        with self.engine.connect() as connection:
            row = connection.execute(_with_skills().where(people.c.rater == rater)).one_or_none()
            if row is None:
                raise InputError("there is no such person", fix="see `llmops feedback people`")
            campaigns = connection.execute(select(memberships.c.campaign).where(memberships.c.rater == rater)).scalars()
            return _person(row, set(campaigns))

    def called(self, login: str) -> Person:
        """The account with this login.

        Raises:
            InputError: there is none; the nearest is named.
        """
        everybody = self.people()
        for one in everybody:
            if one.login == plain_login(login):
                return one
        known = nearest(login, [one.login for one in everybody])
        raise InputError(f"nobody has the login {login!r}{known}", fix="see `llmops feedback people`")

    def admins(self) -> int:
        """How many open accounts are admins."""
        from sqlalchemy import func, select

        people = table("people")
        with self.engine.connect() as connection:
            return connection.execute(
                select(func.count()).select_from(people).where(people.c.role == "admin", people.c.ended.is_(None))
            ).scalar_one()

    def set_role(self, rater: str, role: Role, *, by: str) -> None:
        """Give another role; their sessions end, so that nothing goes on under the old one.

        Raises:
            InputError: nobody has that account, or no admin would be left.
        """
        self._change(rater, {"role": role}, event="role", detail={"role": role}, by=by)

    def close(self, rater: str, *, by: str) -> None:
        """Close an account: nobody signs in with it again, and its sessions end. Its ratings stay.

        Raises:
            InputError: nobody has that account, or no admin would be left.
        """
        self._change(rater, {"ended": self.clock()}, event="closed", detail={}, by=by)

    def open_again(self, rater: str, *, by: str) -> None:
        """Open a closed account.

        Raises:
            InputError: there is none.
        """
        from sqlalchemy import update

        people = table("people")
        with writing(self.engine) as connection:
            changed = connection.execute(
                update(people).where(people.c.rater == rater, people.c.ended.is_not(None)).values(ended=None)
            )
            if not changed.rowcount:
                raise InputError("there is no such closed account", fix="see `llmops feedback people`")
            self._note(connection, "opened", rater, by=by)

    def admit(self, *, login: str, name: str, subject: str) -> str | None:
        """Make a rater's account, for every campaign, of somebody whom an OpenID provider vouches for; its pseudonym.

        Returns:
            None where login or subject are taken; a closed account keeps both, so nobody comes back this way.
        """
        from sqlalchemy.exc import IntegrityError

        try:
            with writing(self.engine) as connection:
                rater = add_person(
                    connection,
                    login=login,
                    name=name,
                    role="rater",
                    campaigns=(EVERY,),
                    languages=(),
                    qualifications=(),
                    password=None,
                    subject=subject,
                    now=self.clock(),
                )
                self._note(connection, "joined", rater, by=rater)
                return rater
        except IntegrityError:
            return None

    def set_campaigns(self, rater: str, campaigns: Collection[str], *, by: str) -> None:
        """Let them rate in (or own) these campaigns alone; their sessions end."""
        with writing(self.engine) as connection:
            _admit(connection, rater, campaigns, now=self.clock(), again=True)
            end_sessions(connection, rater)
            self._note(connection, "campaigns", rater, by=by, campaigns=sorted(campaigns))

    def set_password(self, rater: str, password: str, *, by: str) -> None:
        """Set another password; their sessions end.

        Raises:
            InputError: it is one that is guessed first.
        """
        person = self.person(rater)
        check_new(password, login=person.login, name=person.name)
        self._change(rater, {"password": self.passwords.hash(password)}, event="password", detail={}, by=by)

    def _change(self, rater: str, values: dict[str, Any], *, event: str, detail: dict[str, Any], by: str) -> None:
        from sqlalchemy import select, update

        people = table("people")
        with writing(self.engine) as connection:
            changed = connection.execute(
                update(people).where(people.c.rater == rater, people.c.ended.is_(None)).values(**values)
            )
            if not changed.rowcount:
                raise InputError("there is no such open account", fix="see `llmops feedback people`")
            # After the change and with a lock: of two admins who close each other at once, one is told no.
            left = connection.execute(
                select(people.c.rater).where(people.c.role == "admin", people.c.ended.is_(None)).with_for_update()
            ).all()
            if not left and ("role" in values or "ended" in values):
                raise InputError("no admin would be left", fix="make somebody else an admin first")
            end_sessions(connection, rater)
            self._note(connection, event, rater, by=by, **detail)

    def _note(self, connection: Connection, kind: str, rater: str, *, by: str, **detail: Any) -> None:
        """What happened to an account, by pseudonyms alone, so that it can stay when the person is erased."""
        write_event(connection, kind, rater, at=self.clock(), actor=by, detail=detail)


def plain_login(login: str) -> str:
    """A login in the one form it is kept in."""
    return unicodedata.normalize("NFKC", login).strip().casefold()


def check_login(login: str) -> str:
    """The login as it is kept.

    Raises:
        InputError: it can be none.
    """
    plain = plain_login(login)
    if not _LOGIN.fullmatch(plain):
        raise InputError(
            "a login is 1 to 100 of the letters a to z, digits and . _ @ + -", fix="choose another, such as your e-mail"
        )
    return plain


def check_name(name: str) -> str:
    """The name as it is kept.

    Raises:
        InputError: it is empty, too long, or holds what is no part of names.
    """
    plain = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(plain) <= 100:
        raise InputError("a name has 1 to 100 letters", fix="write what others shall call you")
    if any(unicodedata.category(letter) == "Cc" or letter in _TURNS for letter in plain):
        raise InputError("the name holds letters that cannot be seen", fix="write it without them")
    return plain


def add_person(
    connection: Connection,
    *,
    login: str,
    name: str,
    role: Role,
    campaigns: Collection[str],
    languages: Collection[str],
    qualifications: Collection[str],
    password: str | None,
    subject: str | None,
    now: float,
) -> str:
    """Make an account and the rater behind it; its pseudonym, which is drawn by chance and says nothing of the person.

    Args:
        password: what is kept of it; None where `subject` vouches.

    Raises:
        sqlalchemy.exc.IntegrityError: the login or the subject is taken.
    """
    from sqlalchemy import insert

    rater = pseudonym()
    connection.execute(
        insert(table("people")).values(
            rater=rater, login=login, name=name, role=role, password=password, subject=subject, at=now
        )
    )
    insert_rater(
        connection, rater, languages=sorted(languages), qualifications=sorted(qualifications), consent="", at=now
    )
    _admit(connection, rater, campaigns, now=now, again=False)
    return rater


def _admit(connection: Connection, rater: str, campaigns: Collection[str], *, now: float, again: bool) -> None:
    from sqlalchemy import delete, insert

    memberships = table("memberships")
    if again:
        connection.execute(delete(memberships).where(memberships.c.rater == rater))
    names = {EVERY} if EVERY in campaigns else set(campaigns)
    if names:
        connection.execute(
            insert(memberships), [{"campaign": name, "rater": rater, "at": now} for name in sorted(names)]
        )


def end_sessions(connection: Connection, rater: str, *, but: str | None = None) -> None:
    """End all sessions of somebody, but the one with this digest."""
    from sqlalchemy import delete

    sessions = table("people_sessions")
    connection.execute(delete(sessions).where(sessions.c.rater == rater, sessions.c.digest != (but or "")))


def _with_skills() -> Select[Any]:
    from sqlalchemy import select

    people, raters = table("people"), table("raters")
    return select(people, raters.c.languages, raters.c.qualifications).join(raters, raters.c.id == people.c.rater)


def _person(row: Row[Any], campaigns: set[str]) -> Person:
    return Person(
        rater=row.rater,
        login=row.login,
        name=row.name,
        role=row.role,
        campaigns=frozenset(campaigns),
        languages=tuple(json.loads(row.languages)),
        qualifications=tuple(json.loads(row.qualifications)),
        vouched=row.subject is not None,
        at=row.at,
        ended=row.ended,
    )
