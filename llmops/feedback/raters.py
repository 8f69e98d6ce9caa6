"""Raters as the store knows them: pseudonyms with languages and qualifications, how they stand, who is paused."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError
from llmops.feedback.campaign import LANGUAGE, NAME
from llmops.feedback.events import write_event
from llmops.feedback.faults import NotThere
from llmops.feedback.items import Rater, RaterState
from llmops.feedback.tables import table
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


def pseudonym(identity: str | None = None, *, key: bytes | None = None) -> str:
    """A name that says nothing of a person: random; or, with a key, the same for the same identity, such as the
    rater's id in an imported file, which nobody without the key can find out by trying."""
    if identity is None or key is None:
        return f"r-{secrets.token_hex(8)}"
    return f"r-{hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()[:16]}"


def add_rater(
    engine: Engine,
    rater: str | None = None,
    *,
    languages: Sequence[str] = (),
    qualifications: Sequence[str] = (),
    consent: str = "",
    at: float | None = None,
) -> str:
    """Make a rater known, under a random pseudonym where none is given; one who is known stays as they are."""
    name = rater or pseudonym()
    with writing(engine) as connection:
        insert_rater(
            connection,
            name,
            languages=languages,
            qualifications=qualifications,
            consent=consent,
            at=time.time() if at is None else at,
        )
    return name


def insert_rater(
    connection: Connection,
    rater: str,
    *,
    languages: Sequence[str],
    qualifications: Sequence[str],
    consent: str,
    at: float,
) -> None:
    """The same within a transaction, as an invitation is used up."""
    if rater_named(connection, rater) is None:
        connection.execute(
            table("raters").insert(),
            {
                "id": rater,
                "at": at,
                "languages": json.dumps(list(languages)),
                "qualifications": json.dumps(list(qualifications)),
                "consent": consent,
            },
        )


def rater_named(connection: Connection, rater: str) -> Rater | None:
    """The rater of that pseudonym; None where there is none, or where the person was erased."""
    from sqlalchemy import select

    raters = table("raters")
    row = connection.execute(select(raters).where(raters.c.id == rater)).first()
    if row is None:
        return None
    return Rater(row.id, tuple(json.loads(row.languages)), tuple(json.loads(row.qualifications)), row.consent)


def check_skills(languages: Collection[str], qualifications: Collection[str]) -> None:
    """Raises InputError for a language or qualification that no campaign can ask for, as it would never fit one."""
    for kind, words, pattern, such in (
        ("language", languages, LANGUAGE, "en or de-CH"),
        ("qualification", qualifications, NAME, "medicine"),
    ):
        wrong = [word for word in words if len(word) > 100 or not re.fullmatch(pattern, word)]
        if wrong:
            raise InputError(f"{wrong[0][:40]!r} is no {kind}", fix=f"write it as campaigns do, such as {such}")


def change_rater(
    engine: Engine,
    rater: str,
    *,
    languages: Collection[str] | None = None,
    qualifications: Collection[str] | None = None,
    consent: str | None = None,
    actor: str,
    at: float | None = None,
) -> None:
    """Say anew what a rater reads, may and agreed to; None leaves it.

    Raises:
        NotThere: there is no such rater.
        InputError: no campaign can ask for such a language or qualification.
    """
    from sqlalchemy import update

    check_skills(languages or (), qualifications or ())

    raters = table("raters")
    given: dict[str, Any] = {"languages": languages, "qualifications": qualifications, "consent": consent}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return
    kept = {name: value if isinstance(value, str) else json.dumps(sorted(value)) for name, value in changes.items()}
    with writing(engine) as connection:
        done = connection.execute(update(raters).where(raters.c.id == rater).values(**kept))
        if done.rowcount != 1:
            raise NotThere(f"there is no rater {rater!r}", fix="`llmops feedback people` lists those with an account")
        write_event(
            connection, "changed", rater, at=time.time() if at is None else at, actor=actor, detail={"to": changes}
        )


# ── how they stand ─────────────────────────────────────────────────────────────────────────────────────────────────

NOTHING: dict[str, Any] = {
    "normal": 0,
    "gold": 0,
    "repeat": 0,
    "training": 0,
    "rated": 0,
    "counted": 0,
    "gold_right": 0,
    "gold_of": 0,
    "judged_from": "[0, 0]",
    "paused": False,
}
"""The totals of a rater who has been given nothing."""


def ensure_totals(connection: Connection, campaign: str, rater: str) -> None:
    """The row of a rater's totals, where there is none yet."""
    from sqlalchemy.dialects import postgresql, sqlite

    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    row = {"campaign": campaign, "rater": rater, **NOTHING}
    connection.execute(insert(table("rater_totals")).on_conflict_do_nothing(), row)


def rater_states(engine: Engine, campaign: str) -> list[RaterState]:
    """Each rater who has been given anything of a campaign, by pseudonym."""
    from sqlalchemy import select

    totals = table("rater_totals")
    with engine.connect() as connection:
        return [
            RaterState(
                row.rater,
                row.normal,
                row.gold,
                row.repeat,
                row.training,
                row.rated,
                row.counted,
                (row.gold_right, row.gold_of),
                bool(row.paused),
            )
            for row in connection.execute(select(totals).where(totals.c.campaign == campaign).order_by(totals.c.rater))
        ]


def pause(engine: Engine, campaign: str, rater: str, *, actor: str, reason: str = "", at: float | None = None) -> None:
    """Ask a rater to stop; what they have on the page can still be sent. Nothing happens to one who is paused."""
    with writing(engine, campaign=campaign, rater=rater) as connection:
        _known(connection, rater)
        ensure_totals(connection, campaign, rater)
        write_pause(
            connection, campaign, rater, at=time.time() if at is None else at, actor=actor, detail={"reason": reason}
        )


def write_pause(
    connection: Connection, campaign: str, rater: str, *, at: float, actor: str, detail: dict[str, Any]
) -> None:
    """The same within a transaction."""
    from sqlalchemy import update

    totals = table("rater_totals")
    changed = connection.execute(
        update(totals)
        .where(totals.c.campaign == campaign, totals.c.rater == rater, totals.c.paused.is_(False))
        .values(paused=True)
    )
    if changed.rowcount:
        write_event(connection, "paused", rater, at=at, campaign=campaign, actor=actor, detail=detail)


def resume(engine: Engine, campaign: str, rater: str, *, actor: str, reason: str = "", at: float | None = None) -> None:
    """Let a paused rater go on. Gold items answered so far are forgiven: they are judged by those that follow."""
    from sqlalchemy import select, update

    totals = table("rater_totals")
    mine = (totals.c.campaign == campaign) & (totals.c.rater == rater)
    with writing(engine, campaign=campaign, rater=rater) as connection:
        _known(connection, rater)
        row = connection.execute(select(totals).where(mine)).first()
        if row is None or not row.paused:
            return
        judged_from = [row.gold_right, row.gold_of]
        connection.execute(update(totals).where(mine).values(paused=False, judged_from=json.dumps(judged_from)))
        write_event(
            connection,
            "resumed",
            rater,
            at=time.time() if at is None else at,
            campaign=campaign,
            actor=actor,
            detail={"reason": reason, "judged_from": judged_from},
        )


def _known(connection: Connection, rater: str) -> None:
    if rater_named(connection, rater) is None:
        raise NotThere(f"there is no rater {rater!r}", fix="`llmops feedback people` lists those with an account")
