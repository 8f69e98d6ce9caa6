"""A person's wish to be forgotten: who they are goes at once; what they rated stays under a name that says nothing,
or is read no more, as they ask."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.feedback.desk import release
from llmops.feedback.events import write_event
from llmops.feedback.faults import NotThere
from llmops.feedback.openings import Openings
from llmops.feedback.tables import table
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection, Engine


@dataclass(frozen=True, slots=True)
class Erased:
    """What came of it.

    Attributes:
        ratings: of theirs that stand, in all campaigns; `dropped` says whether they are read no more.
        campaigns: where they had been given something. Exports of these contain their ratings.
    """

    rater: str
    ratings: int
    dropped: bool
    campaigns: tuple[str, ...]


def erase_rater(engine: Engine, rater: str, *, drop: bool, actor: str, at: float | None = None) -> Erased:
    """Forget the person behind a pseudonym: account, sessions, memberships, languages and qualifications.

    Args:
        drop: their ratings are read no more either, and the items they rated need others'. The rows stay, as the
            history of what was exported and trained on.

    Raises:
        NotThere: there is no such rater, or they were erased already and nothing more is asked for.
    """
    from sqlalchemy import delete, select

    now = time.time() if at is None else at
    given = table("assignments")
    with engine.connect() as connection:
        found = select(given.c.campaign).where(given.c.rater == rater).distinct()
        campaigns = tuple(sorted(connection.execute(found).scalars()))
    with writing(engine, campaign=campaigns, rater=rater) as connection:
        check_erasable(connection, rater, drop=drop)
        known = [connection.execute(delete(column.table).where(column == rater)).rowcount for column in _places()]
        _hand_back_leases(connection, engine, rater, now)
        if drop:
            _hand_back_ratings(connection, engine, rater, now)
            write_event(connection, "dropped", rater, at=now, actor=actor)
        if any(known):
            write_event(connection, "erased", rater, at=now, actor=actor, detail={"dropped": drop})
        return Erased(rater, _standing(connection, rater), drop, campaigns)


def check_erasable(connection: Connection, rater: str, *, drop: bool) -> None:
    """Raises NotThere where there is no such rater, or they were erased already and nothing more is asked for."""
    from sqlalchemy import exists, select

    known = [connection.execute(select(exists().where(column == rater))).scalar() for column in _places()]
    happened = table("rating_events")
    before = connection.execute(select(happened.c.kind).where(happened.c.subject == rater)).scalars().all()
    if not any(known) and ("erased" not in before or not drop or "dropped" in before):
        raise NotThere(
            f"there is no rater {rater!r} to erase",
            fix="`llmops feedback people` lists accounts, `llmops feedback report` the raters of a campaign",
        )


def _places() -> list[Column[Any]]:
    """Where a person's identity is."""
    people = [table(name).c.rater for name in ("people_sessions", "memberships", "people")]
    return [*people, table("raters").c.id]


def _standing(connection: Connection, rater: str) -> int:
    """Ratings of theirs that no later one of theirs replaced."""
    from sqlalchemy import func, select

    said = table("ratings")
    replaced = select(said.c.supersedes).where(said.c.rater == rater, said.c.supersedes.is_not(None))
    stand = select(func.count()).where(said.c.rater == rater, said.c.id.not_in(replaced))
    return connection.execute(stand).scalar_one()


def _hand_back_leases(connection: Connection, engine: Engine, rater: str, now: float) -> None:
    from sqlalchemy import select

    given, leases = table("assignments"), table("leases")
    held = select(given).join(leases, leases.c.assignment == given.c.id).where(leases.c.rater == rater)
    openings = Openings(engine)
    for one in sorted(connection.execute(held).all(), key=lambda row: row.item):
        release(connection, openings, one, now=now, actor="service")


def _hand_back_ratings(connection: Connection, engine: Engine, rater: str, now: float) -> None:
    """Their places in the overlaps, for others to fill."""
    from sqlalchemy import delete, exists, select

    given, said, totals = table("assignments"), table("ratings"), table("rater_totals")
    later = said.alias("later")
    filling = (
        select(said.c.item)
        .join(given, given.c.id == said.c.assignment)
        .where(
            said.c.rater == rater,
            given.c.kind == "normal",
            said.c.said == "verdict",
            said.c.surplus.is_(False),
            ~exists().where(later.c.supersedes == said.c.id),
        )
        .order_by(said.c.item)
    )
    openings = Openings(engine)
    for item in connection.execute(filling).scalars().all():
        openings.give_back(connection, item, now)
    connection.execute(delete(totals).where(totals.c.rater == rater))
