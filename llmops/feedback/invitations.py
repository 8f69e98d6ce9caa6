"""Links that let people in, or set a password anew: single-use, with an end, kept as digests."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError
from llmops.feedback.accounts import Accounts, Person, add_person, check_login, check_name, end_sessions
from llmops.feedback.events import SERVICE, write_event
from llmops.feedback.passwords import check_new
from llmops.feedback.raters import check_skills
from llmops.feedback.refused import Refused
from llmops.feedback.sessions import digest
from llmops.feedback.tables import table
from llmops.feedback.visitor import EVERY, Role
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Invitation:
    """One link.

    Attributes:
        digest: of its secret; names it.
        campaigns: names, may hold `EVERY`.
        by: pseudonym of who made it, or `SERVICE`.
        rater: whose password it sets anew; None where it makes an account.
        used: when, in seconds since 1970; None until then.
    """

    digest: str
    role: Role
    campaigns: tuple[str, ...]
    languages: tuple[str, ...]
    qualifications: tuple[str, ...]
    at: float
    until: float
    by: str
    used: float | None
    rater: str | None


class Invitations:
    """The links in the database."""

    def __init__(self, accounts: Accounts, *, hours: float, clock: Callable[[], float] = time.time) -> None:
        self._accounts = accounts
        self._engine = accounts.engine
        self._hours = hours
        self._clock = clock

    def make(
        self,
        role: Role,
        *,
        by: str,
        campaigns: Collection[str] = (EVERY,),
        languages: Collection[str] = (),
        qualifications: Collection[str] = (),
        rater: str | None = None,
    ) -> str:
        """A new link's secret, which is kept nowhere.

        Raises:
            InputError: a campaign's name in it is none, or no campaign can ask for such a language or qualification.
        """
        from sqlalchemy import insert

        check_skills(languages, qualifications)
        for word in campaigns:
            if word != EVERY and not (0 < len(word) <= 100 and word.isprintable() and " " not in word):
                raise InputError(
                    f"{word[:40]!r} is no name", fix="write names without spaces, with commas between them"
                )
        secret, now = secrets.token_urlsafe(_SECRET_BYTES), self._clock()
        with writing(self._engine) as connection:
            connection.execute(
                insert(table("invitations")).values(
                    digest=digest(secret),
                    role=role,
                    campaigns=json.dumps(sorted(campaigns)),
                    languages=json.dumps(sorted(languages)),
                    qualifications=json.dumps(sorted(qualifications)),
                    at=now,
                    until=now + self._hours * 3600,
                    by=by,
                    rater=rater,
                )
            )
            detail = {"role": role, "campaigns": sorted(campaigns)}
            write_event(connection, "invited", digest(secret), at=now, actor=by, detail=detail)
        return secret

    def reset(self, person: Person, *, by: str) -> str:
        """The secret of a link that sets an account's password anew.

        Raises:
            InputError: the account is closed, or has no password but a provider that vouches for it.
        """
        if person.ended is not None:
            raise InputError(f"the account {person.login} is closed", fix="open it again first")
        if person.vouched:
            raise InputError(f"{person.login} has no password", fix="let them sign in with the OpenID provider")
        return self.make(person.role, by=by, campaigns=(), rater=person.rater)

    def first_admin(self) -> str | None:
        """A link for the first admin, where there is none; those that were made before and not used end."""
        from sqlalchemy import update

        if self._accounts.admins():
            return None
        invitations, now = table("invitations"), self._clock()
        with writing(self._engine) as connection:
            connection.execute(
                update(invitations)
                .where(invitations.c.by == SERVICE, invitations.c.used.is_(None), invitations.c.until > now)
                .values(until=now)
            )
        return self.make("admin", by=SERVICE)

    def open(self, *, by: str | None = None) -> list[Invitation]:
        """Those that can still be used, the newest first; of one person alone, where named."""
        from sqlalchemy import select

        invitations = table("invitations")
        asked = select(invitations).where(invitations.c.used.is_(None), invitations.c.until > self._clock())
        if by is not None:
            asked = asked.where(invitations.c.by == by)
        with self._engine.connect() as connection:
            return [_invitation(row) for row in connection.execute(asked.order_by(invitations.c.at.desc()))]

    def find(self, secret: str) -> Invitation:
        """The link with this secret.

        Raises:
            Refused: 404 where there is none, or it was used, or is over: which of these is not told.
        """
        with self._engine.connect() as connection:
            return self._found(connection, secret)

    def withdraw(self, which: str, *, by: str | None = None) -> None:
        """End a link by its digest; where `by` is given, only one that they made.

        Raises:
            Refused: 404 where there is none such.
        """
        from sqlalchemy import update

        invitations, now = table("invitations"), self._clock()
        meant = (invitations.c.digest == which) & invitations.c.used.is_(None) & (invitations.c.until > now)
        if by is not None:
            meant &= invitations.c.by == by
        with writing(self._engine) as connection:
            if not connection.execute(update(invitations).where(meant).values(until=now)).rowcount:
                raise _no_link()

    def accept(self, secret: str, *, login: str, name: str, password: str) -> str:
        """Make the account that a link lets in; its pseudonym. Two at once: one gets it.

        Raises:
            Refused: 404 where the link cannot be used.
            InputError: the login is taken or none, the name or the password cannot be; the link stays usable.
        """
        invitation = self.find(secret)
        if invitation.rater is not None:
            raise _no_link()
        login, name = check_login(login), check_name(name)
        check_new(password, login=login, name=name)
        kept = self._accounts.passwords.hash(password)
        return self._enter(secret, login=login, name=name, password=kept, subject=None)

    def accept_vouched(self, secret: str, *, login: str, name: str, subject: str) -> str:
        """The same for somebody whom an OpenID provider vouches for."""
        return self._enter(secret, login=login, name=name, password=None, subject=subject)

    def accept_password(self, secret: str, *, password: str) -> str:
        """Set the password that a link is for; whose it is. All their sessions end.

        Raises:
            Refused: 404 where the link cannot be used.
            InputError: the password cannot be; the link stays usable.
        """
        from sqlalchemy import update

        invitation = self.find(secret)
        if invitation.rater is None:
            raise _no_link()
        person = self._accounts.person(invitation.rater)
        check_new(password, login=person.login, name=person.name)
        kept, people = self._accounts.passwords.hash(password), table("people")
        with writing(self._engine) as connection:
            self._use(connection, secret)
            changed = connection.execute(
                update(people).where(people.c.rater == person.rater, people.c.ended.is_(None)).values(password=kept)
            )
            if not changed.rowcount:
                raise _no_link()
            end_sessions(connection, person.rater)
            write_event(connection, "password", person.rater, at=self._clock(), actor=person.rater)
        return person.rater

    def _enter(self, secret: str, *, login: str, name: str, password: str | None, subject: str | None) -> str:
        from sqlalchemy.exc import IntegrityError

        try:
            with writing(self._engine) as connection:
                self._use(connection, secret)
                invitation = self._found(connection, secret, used=True)
                if invitation.rater is not None:
                    raise _no_link()
                rater = add_person(
                    connection,
                    login=login,
                    name=name,
                    role=invitation.role,
                    campaigns=invitation.campaigns,
                    languages=invitation.languages,
                    qualifications=invitation.qualifications,
                    password=password,
                    subject=subject,
                    now=self._clock(),
                )
                detail = {"invitation": invitation.digest}
                write_event(connection, "joined", rater, at=self._clock(), actor=rater, detail=detail)
                return rater
        except IntegrityError as error:
            raise InputError("this login is taken", fix="choose another; the link can still be used") from error

    def _use(self, connection: Connection, secret: str) -> None:
        """Claim the link: the first statement of its transaction, so that two at once cannot both have it."""
        from sqlalchemy import update

        invitations, now = table("invitations"), self._clock()
        claimed = connection.execute(
            update(invitations)
            .where(invitations.c.digest == digest(secret), invitations.c.used.is_(None), invitations.c.until > now)
            .values(used=now)
        )
        if not claimed.rowcount:
            raise _no_link()

    def _found(self, connection: Connection, secret: str, *, used: bool = False) -> Invitation:
        from sqlalchemy import select

        invitations = table("invitations")
        row = connection.execute(select(invitations).where(invitations.c.digest == digest(secret))).one_or_none()
        if row is None or (not used and (row.used is not None or row.until <= self._clock())):
            raise _no_link()
        return _invitation(row)


def _no_link() -> Refused:
    return Refused(404, "this link cannot be used: it was used, or is over, or was never made", fix="ask for a new one")


def _invitation(row: Row[Any]) -> Invitation:
    return Invitation(
        digest=row.digest,
        role=row.role,
        campaigns=tuple(json.loads(row.campaigns)),
        languages=tuple(json.loads(row.languages)),
        qualifications=tuple(json.loads(row.qualifications)),
        at=row.at,
        until=row.until,
        by=row.by,
        used=row.used,
        rater=row.rater,
    )
