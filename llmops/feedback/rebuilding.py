"""The indexes of a campaign made anew from what was only ever added: what is free, what is out, how much there is."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmops.feedback.campaign import Campaign
from llmops.feedback.raters import NOTHING
from llmops.feedback.store import campaign_named
from llmops.feedback.tables import table
from llmops.feedback.taking import gold_right
from llmops.feedback.writing import alone

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_AT_ONCE = 5_000


def rebuild(engine: Engine, campaign: str, *, at: float | None = None) -> None:
    """Throw the indexes of a campaign away and make them anew, while nobody is given anything.

    Afterwards they are what they were, save that leases which ended are gone.

    Raises:
        NotThere: there is no such campaign.
    """
    settings = campaign_named(engine, campaign)
    now = time.time() if at is None else at
    with alone(engine, campaign) as connection:
        dropped = dropped_raters(connection)
        leases = _rebuild_leases(connection, campaign, now)
        standing = _standing(connection, campaign, dropped)
        _rebuild_openings(connection, settings, leases + standing, now)
        _rebuild_rater_totals(connection, campaign, dropped)


def dropped_raters(connection: Connection) -> frozenset[str]:
    """Those whose ratings are to be read no more."""
    from sqlalchemy import select

    happened = table("rating_events")
    wanted = select(happened.c.subject).where(happened.c.campaign.is_(None), happened.c.kind == "dropped")
    return frozenset(connection.execute(wanted).scalars())


def _rebuild_leases(connection: Connection, campaign: str, now: float) -> Counter[str]:
    """Leases of assignments that have no rating and whose time is not over; places they hold, by item."""
    from sqlalchemy import delete, exists, select

    given, said, leases = table("assignments"), table("ratings"), table("leases")
    raters = table("raters")
    happened = table("rating_events")
    moved: dict[str, float] = {}
    changes = (
        select(happened)
        .where(happened.c.campaign == campaign, happened.c.kind.in_(["extended", "released"]))
        .order_by(happened.c.at)
    )
    for row in connection.execute(changes):
        moved[row.subject] = json.loads(row.detail)["until"] if row.kind == "extended" else float("-inf")
    open_ = select(given).where(
        given.c.campaign == campaign,
        ~exists().where(said.c.assignment == given.c.id),
        exists().where(raters.c.id == given.c.rater),
    )
    held: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for row in connection.execute(open_):
        until = moved.get(row.id, row.until)
        if until > now:
            rows.append(
                {
                    "assignment": row.id,
                    "campaign": campaign,
                    "item": row.item,
                    "rater": row.rater,
                    "until": until,
                }
            )
            held[row.item] += row.kind == "normal"
    connection.execute(delete(leases).where(leases.c.campaign == campaign))
    if rows:
        connection.execute(leases.insert(), rows)
    return held


def _standing(connection: Connection, campaign: str, dropped: frozenset[str]) -> Counter[str]:
    """Ratings that fill an overlap, by item."""
    from sqlalchemy import exists, func, select

    given, said = table("assignments"), table("ratings")
    later = said.alias("later")
    filling = (
        select(said.c.item, said.c.rater, func.count().label("n"))
        .join(given, given.c.id == said.c.assignment)
        .where(
            said.c.campaign == campaign,
            given.c.kind == "normal",
            said.c.said == "verdict",
            said.c.surplus.is_(False),
            ~exists().where(later.c.supersedes == said.c.id),
        )
        .group_by(said.c.item, said.c.rater)
    )
    filled: Counter[str] = Counter()
    for row in connection.execute(filling):
        if row.rater not in dropped:
            filled[row.item] += row.n
    return filled


def _rebuild_openings(connection: Connection, campaign: Campaign, used: Counter[str], now: float) -> None:
    from sqlalchemy import delete, select, update

    items, openings, totals = table("rated_items"), table("openings"), table("campaign_totals")
    happened = table("rating_events")
    more: Counter[str] = Counter()
    reopened = select(happened).where(happened.c.campaign == campaign.name, happened.c.kind == "reopened")
    for row in connection.execute(reopened):
        more[row.subject] += json.loads(row.detail)["more"]
    connection.execute(delete(openings).where(openings.c.campaign == campaign.name))
    size, gold, wanted, last = 0, 0, 0, -1
    languages: set[str] = set()
    columns = (items.c.id, items.c.place, items.c.kind, items.c.overlap, items.c.priority, items.c.language)
    while True:
        batch = connection.execute(
            select(*columns)
            .where(items.c.campaign == campaign.name, items.c.place > last)
            .order_by(items.c.place)
            .limit(_AT_ONCE)
        ).all()
        if not batch:
            break
        last = batch[-1].place
        size += len(batch)
        normal = [row for row in batch if row.kind == "normal"]
        gold += len(batch) - len(normal)
        wanted += sum(row.overlap + more[row.id] for row in normal)
        languages |= {row.language or "" for row in normal}
        if normal:
            connection.execute(
                openings.insert(),
                [
                    {
                        "item": row.id,
                        "campaign": campaign.name,
                        "free": row.overlap + more[row.id] - used[row.id],
                        "rank": -row.priority,
                        "place": row.place,
                        "language": row.language or "",
                        "since": now,
                    }
                    for row in normal
                ],
            )
    connection.execute(
        update(totals)
        .where(totals.c.campaign == campaign.name)
        .values(size=size, gold=gold, wanted=wanted, languages=json.dumps(sorted(languages)))
    )


def _rebuild_rater_totals(connection: Connection, campaign: str, dropped: frozenset[str]) -> None:
    from sqlalchemy import delete, exists, func, select

    given, said, items = table("assignments"), table("ratings"), table("rated_items")
    totals, happened = table("rater_totals"), table("rating_events")
    later = said.alias("later")
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: dict(NOTHING))
    kinds = (
        select(given.c.rater, given.c.kind, func.count().label("n"))
        .where(given.c.campaign == campaign)
        .group_by(given.c.rater, given.c.kind)
    )
    for row in connection.execute(kinds):
        rows[row.rater][row.kind] = row.n
    standing = (said.c.campaign == campaign) & ~exists().where(later.c.supersedes == said.c.id)
    verdicts = (
        select(said.c.rater, given.c.kind, said.c.surplus, func.count().label("n"))
        .join(given, given.c.id == said.c.assignment)
        .where(standing, said.c.said == "verdict")
        .group_by(said.c.rater, given.c.kind, said.c.surplus)
    )
    for row in connection.execute(verdicts):
        rows[row.rater]["rated"] += row.n
        rows[row.rater]["counted"] += row.n if row.kind == "normal" and not row.surplus else 0
    golds = (
        select(said.c.rater, said.c.content, given.c.shown, items.c.expected)
        .join(given, given.c.id == said.c.assignment)
        .join(items, items.c.id == said.c.item)
        .where(standing, given.c.kind == "gold")
    )
    for row in connection.execute(golds):
        right = gold_right(_loaded(row.expected), json.loads(row.content)["verdict"], json.loads(row.shown))
        rows[row.rater]["gold_right"] += right is True
        rows[row.rater]["gold_of"] += right is not None
    pauses = (
        select(happened)
        .where(happened.c.campaign == campaign, happened.c.kind.in_(["paused", "resumed"]))
        .order_by(happened.c.at)
    )
    for row in connection.execute(pauses):
        rows[row.subject]["paused"] = row.kind == "paused"
        if row.kind == "resumed":
            rows[row.subject]["judged_from"] = json.dumps(json.loads(row.detail)["judged_from"])
    connection.execute(delete(totals).where(totals.c.campaign == campaign))
    kept = [{**values, "campaign": campaign, "rater": rater} for rater, values in rows.items() if rater not in dropped]
    if kept:
        connection.execute(totals.insert(), kept)


def _loaded(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else json.loads(text)
