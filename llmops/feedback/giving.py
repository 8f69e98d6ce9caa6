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
from llmops.feedback.book import Book, Standing
from llmops.feedback.campaign import Campaign
from llmops.feedback.items import Rater
from llmops.feedback.openings import Hand
from llmops.feedback.tasks import NoTask, Task

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
        self._hands: OrderedDict[tuple[str | tuple[str, ...], ...], Hand] = OrderedDict()
        self._guard = Lock()

    def give(self, connection: Connection, campaign: Campaign, rater: str, nth: int, now: float) -> Task | NoTask:
        """The nth task that is out to a rater, a new one where fewer are.

        Raises:
            NotThere: there is no such rater.
        """
        standing = self._book.standing(connection, campaign.name, rater)
        if standing.paused:
            return NoTask("paused")
        mine = {"campaign": campaign.name, "rater": rater}
        out = connection.execute(self._book.sql.out, {**mine, "now": now}).all()
        if len(out) > nth or len(out) >= assign.AT_ONCE:
            return self._book.task(connection, out[min(nth, len(out) - 1)])
        person = standing.person
        refused = assign.missing(
            campaign.languages, campaign.requires, read=person.languages, qualifications=person.qualifications
        )
        if refused is not None:
            return refused
        languages = assign.readable(standing.languages, person.languages)
        due = assign.kinds_due(
            _shares(campaign), standing.counts, lambda kind, number: self._draw(kind, number, rater, campaign)
        )
        for kind in due:
            chosen = self._choose(connection, campaign, person, kind, languages, now)
            if chosen is not None:
                return self._assign(connection, campaign, standing, kind, *chosen, now=now)
        return assign.why_none(
            open_or_out=self._book.openings.any_open(connection, campaign.name),
            had_any=standing.counts != assign.Counts(),
            taken_until=self._book.openings.taken_until(connection, campaign.name, rater, languages),
            now=now,
        )

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
            hand = self._hand(campaign.name, person.id, languages)
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
        standing: Standing,
        kind: assign.TaskKind,
        item: str,
        round_: int,
        *,
        now: float,
    ) -> Task:
        material = connection.execute(self._book.sql.material, {"item": item}).all()
        until = now + campaign.lease_minutes * 60
        common = {"campaign": campaign.name, "item": item, "rater": standing.person.id, "until": until}
        row = {
            **common,
            "id": uuid4().hex,
            "round": round_,
            "kind": kind,
            "at": now,
            "shown": json.dumps(assign.sides(len(material), self._random)),
            "policy": assign.POLICY,
        }
        connection.execute(self._book.sql.add_assignment, row)
        connection.execute(self._book.sql.add_lease, {**common, "assignment": row["id"]})
        self._book.count(connection, campaign.name, standing.person.id, **{kind: 1})
        rubric = self._book.current_rubric(connection, campaign.name, standing.rubric)
        return self._book.shown(row, material, rubric, until=until)

    def _hand(self, *whose: str | tuple[str, ...]) -> Hand:
        """Of one campaign, rater and what they read of it: who reads more begins anew."""
        with self._guard:
            hand = self._hands.setdefault(whose, Hand())
            self._hands.move_to_end(whose)
            if len(self._hands) > _HANDS:
                self._hands.popitem(last=False)
            return hand


def _shares(campaign: Campaign) -> assign.Shares:
    gold = campaign.gold
    return assign.Shares(gold.training if gold else 0, gold.share if gold else 0.0, campaign.repeat)
