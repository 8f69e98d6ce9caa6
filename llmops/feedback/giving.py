"""Giving out: which task a rater gets next, decided by `assign` and written down."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmops.feedback import assign
from llmops.feedback.book import Book
from llmops.feedback.campaign import Campaign
from llmops.feedback.faults import NotThere
from llmops.feedback.items import Rater
from llmops.feedback.openings import Hand
from llmops.feedback.raters import rater_named
from llmops.feedback.tasks import NoTask

if TYPE_CHECKING:
    from sqlalchemy import Connection

_HANDS = 10_000
"""Raters whose place in a campaign is remembered; the longest unseen is forgotten, which costs them one search."""


class Giving:
    """Each method belongs into a transaction of `writing`."""

    def __init__(self, book: Book, random: Random) -> None:
        self._book = book
        self._random = random
        self._salt = f"{random.getrandbits(128):032x}"
        self._hands: OrderedDict[tuple[str, str], Hand] = OrderedDict()
        self._guard = Lock()

    def assigned(self, connection: Connection, campaign: Campaign, rater: str, nth: int, now: float) -> str | NoTask:
        """The id of the nth assignment that is out to a rater, a new one where fewer are.

        Raises:
            NotThere: there is no such rater.
        """
        mine = {"campaign": campaign.name, "rater": rater}
        person = rater_named(connection, rater)
        if person is None:
            raise NotThere(f"there is no rater {rater!r}", fix="log in again")
        totals = connection.execute(self._book.sql.totals, mine).first()
        if totals is not None and totals.paused:
            return NoTask("paused")
        out = connection.execute(self._book.sql.out, {**mine, "now": now}).scalars().all()
        if len(out) > nth or len(out) >= assign.AT_ONCE:
            return str(out[min(nth, len(out) - 1)])
        refused = assign.missing(
            campaign.languages, campaign.requires, read=person.languages, qualifications=person.qualifications
        )
        if refused is not None:
            return refused
        counts = (
            assign.Counts(totals.normal, totals.gold, totals.repeat, totals.training)
            if totals is not None
            else assign.Counts()
        )
        languages = self._languages(connection, campaign.name, person)
        for kind in assign.kinds_due(_shares(campaign), counts, lambda kind, n: self._draw(kind, n, rater, campaign)):
            chosen = self._choose(connection, campaign, person, kind, languages, now)
            if chosen is not None:
                return self._assign(connection, campaign, rater, kind, *chosen, now=now)
        had_any = counts != assign.Counts()
        return assign.why_none(
            open_or_out=self._book.openings.any_open(connection, campaign.name),
            had_any=had_any,
            taken_until=self._book.openings.taken_until(connection, campaign.name, rater, languages),
            now=now,
        )

    def _languages(self, connection: Connection, campaign: str, person: Rater) -> tuple[str, ...]:
        known = connection.execute(self._book.sql.languages, {"campaign": campaign}).scalar() or "[]"
        return assign.readable(json.loads(known), person.languages)

    def _draw(self, kind: str, number: int, rater: str, campaign: Campaign) -> float:
        drawn = hashlib.sha256(f"{self._salt} {campaign.name} {rater} {kind} {number}".encode()).digest()
        return int.from_bytes(drawn[:7]) / 2**56

    def _choose(
        self,
        connection: Connection,
        campaign: Campaign,
        person: Rater,
        kind: assign.TaskKind,
        languages: tuple[str, ...],
        now: float,
    ) -> tuple[str, int] | None:
        """An item and the round in which this rater gets it; None where there is none of that kind."""
        mine = {"campaign": campaign.name, "rater": person.id}
        if kind == "normal":
            hand = self._hand(campaign.name, person.id)
            opening = self._book.openings.pick(connection, campaign.name, person.id, languages, hand, now)
            if opening is None or not self._book.openings.take(connection, opening.item):
                return None
            return opening.item, 0
        if kind == "repeat":
            return self._to_repeat(connection, mine)
        golds: dict[str, assign.Gold] = {}
        for row in connection.execute(self._book.sql.golds, mine):
            if not assign.readable([row.language or ""], person.languages):
                continue
            before = golds.get(row.id, assign.Gold(row.id, row.place))
            golds[row.id] = assign.Gold(
                row.id,
                row.place,
                before.times + (row.given is not None),
                before.told or row.given == "training",
            )
        gold = assign.gold_for(golds.values(), training=kind == "training", rng=self._random)
        return None if gold is None else (gold.item, gold.times)

    def _to_repeat(self, connection: Connection, mine: dict[str, Any]) -> tuple[str, int] | None:
        """An item this rater rated some time ago and was not asked again: the first after a moment drawn."""
        first = connection.execute(self._book.sql.first_at, mine).scalar()
        last = connection.execute(self._book.sql.nth_last_at, {**mine, "gap": assign.REPEAT_GAP - 1}).scalar()
        if first is None or last is None:
            return None
        for start in (self._random.uniform(first, last), first):
            row = connection.execute(self._book.sql.repeatable, {**mine, "start": start, "end": last}).first()
            if row is not None:
                return row.item, 1
        return None

    def _assign(
        self,
        connection: Connection,
        campaign: Campaign,
        rater: str,
        kind: assign.TaskKind,
        item: str,
        round_: int,
        *,
        now: float,
    ) -> str:
        responses = connection.execute(self._book.sql.response_count, {"item": item}).scalar_one()
        until = now + campaign.lease_minutes * 60
        row = {
            "id": uuid4().hex,
            "campaign": campaign.name,
            "item": item,
            "rater": rater,
            "round": round_,
            "kind": kind,
            "at": now,
            "until": until,
            "shown": json.dumps(assign.sides(responses, self._random)),
            "policy": assign.POLICY,
        }
        connection.execute(self._book.sql.add_assignment, row)
        connection.execute(
            self._book.sql.add_lease,
            {"assignment": row["id"], "campaign": campaign.name, "item": item, "rater": rater, "until": until},
        )
        self._book.count(connection, campaign.name, rater, **{kind: 1})
        return str(row["id"])

    def _hand(self, campaign: str, rater: str) -> Hand:
        with self._guard:
            hand = self._hands.setdefault((campaign, rater), Hand())
            self._hands.move_to_end((campaign, rater))
            if len(self._hands) > _HANDS:
                self._hands.popitem(last=False)
            return hand


def _shares(campaign: Campaign) -> assign.Shares:
    gold = campaign.gold
    return assign.Shares(gold.training if gold else 0, gold.share if gold else 0.0, campaign.repeat)
