"""The desk where raters get their tasks and hand in their ratings: each call is one transaction, done or not done.

A rating is stored once however often it is sent. An item that needs n ratings gets n from n raters; one that came too
late, when others had filled the overlap, is kept and marked as surplus.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from random import Random, SystemRandom
from statistics import median
from typing import TYPE_CHECKING, Any

from llmops.feedback import assign
from llmops.feedback.book import Book
from llmops.feedback.campaign import Campaign
from llmops.feedback.events import write_event
from llmops.feedback.faults import Conflict, LeaseLost
from llmops.feedback.giving import Giving
from llmops.feedback.openings import Openings
from llmops.feedback.taking import Taking, gold_right
from llmops.feedback.tasks import NoTask, Progress, Stored, Task
from llmops.feedback.verdicts import Given
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import Row

_REAP_S = 1.0
"""Seconds between two looks for leases that ended, while there is other work."""
GOLD_TOLD = 10
"""Gold items by which a rater's own agreement with them, where it is shown, moves on."""
_PACE = 101
"""Newest ratings of a rater from which their usual time is taken."""


class Desk:
    """Hands out tasks and takes ratings; safe to use from many threads, and beside other processes."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time, random: Random | None = None) -> None:
        """A desk over an open database.

        Args:
            random: draws the order of answers and which tasks are gold; the system's where none is given.
        """
        self._engine = engine
        self._clock = clock
        self._book = Book(engine)
        self._giving = Giving(self._book, random or SystemRandom())
        self._taking = Taking(self._book)
        self._reaped: dict[str, float] = {}

    # ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def next(self, campaign: str, rater: str) -> Task | NoTask:
        """The task on this rater's page: the one that is still out to them, or a new one.

        Raises:
            NotThere: there is no such campaign, or no such rater.
        """
        return self._give(campaign, rater, 0)

    def ahead(self, campaign: str, rater: str) -> Task | NoTask:
        """The task after the one on the page, to be fetched before it is needed."""
        return self._give(campaign, rater, 1)

    def task(self, assignment: str, rater: str) -> Task:
        """One of this rater's tasks, rated or not. Raises NotThere for those of others, and for none."""
        with self._engine.connect() as connection:
            return self._book.task(connection, self._book.mine(connection, assignment, rater))

    def previous(self, campaign: str, rater: str, before: str | None = None) -> Task | None:
        """The task this rater rated, or skipped, before another one; None where there is none.

        Args:
            before: an assignment of theirs; None for the newest that was rated.
        """
        with self._engine.connect() as connection:
            at, name = float("inf"), ""
            if before is not None:
                known = self._book.mine(connection, before, rater)
                at, name = known.at, known.id
            wanted = {"campaign": campaign, "rater": rater, "at": min(at, 1e300), "name": name}
            row = connection.execute(self._book.sql.previous, wanted).first()
            return None if row is None else self._book.task(connection, row)

    def extend(self, assignment: str, rater: str) -> float:
        """Keep a task for longer; when its lease ends now. Most of a lease being left, nothing changes.

        Raises:
            NotThere: it is not this rater's.
            LeaseLost: the lease ended, and others have the item now.
            Conflict: it was rated already.
        """
        campaign = self._campaign_of(assignment, rater)
        with writing(self._engine, campaign=campaign.name, rater=rater, brief=True) as connection:
            now = self._clock()
            known = self._book.mine(connection, assignment, rater)
            lease = connection.execute(self._book.sql.lease, {"assignment": assignment}).first()
            if lease is None:
                self._take_again(connection, known, rater)
                until = now + campaign.lease_minutes * 60
                connection.execute(self._book.sql.add_lease, _lease(known, until))
            else:
                until = assign.extended(lease.until, now, campaign.lease_minutes * 60)
                if until == lease.until:
                    return until
                connection.execute(self._book.sql.move_lease, {"of": assignment, "to": until})
            write_event(
                connection,
                "extended",
                assignment,
                at=now,
                campaign=campaign.name,
                actor=rater,
                detail={"until": until},
            )
            return until

    def _take_again(self, connection: Connection, known: Row[Any], rater: str) -> None:
        if connection.execute(self._book.sql.ratings, {"assignment": known.id}).first() is not None:
            raise Conflict("this task is rated already", fix="go on with the next one")
        if known.kind == "normal" and not self._book.openings.take(connection, known.item):
            raise LeaseLost(
                "the time for this task ended, and somebody else has it",
                fix="what you have written can be sent all the same, and is kept; then go on with the next one",
            )

    def release(self, assignment: str, rater: str) -> None:
        """Give a task back unrated, for others; this rater is not given it again. Nothing happens the second time."""
        campaign = self._campaign_of(assignment, rater)
        with writing(self._engine, campaign=campaign.name, rater=rater, brief=True) as connection:
            known = self._book.mine(connection, assignment, rater)
            release(connection, self._book.openings, known, now=self._clock(), actor=rater)

    def _give(self, name: str, rater: str, nth: int) -> Task | NoTask:
        campaign = self._book.campaign(name)
        now = self._clock()
        if now >= self._reaped.get(name, float("-inf")) + _REAP_S:
            self._reap(name, now)
        with writing(self._engine, campaign=name, rater=rater, brief=True) as connection:
            given = self._giving.give(connection, campaign, rater, nth, now)
        if isinstance(given, NoTask) and given.why == "taken" and self._reap(name, now):
            return self._give(name, rater, nth)
        return given

    def _reap(self, campaign: str, now: float) -> int:
        """Hand back what leases held that are over; how many that were."""
        self._reaped[campaign] = now
        with self._engine.connect() as connection:
            more = int(self._book.openings.any_expired(connection, campaign, now))
        ended = 0
        while more:
            with writing(self._engine, campaign=campaign) as connection:
                more = self._book.openings.reap(connection, campaign, now)
            ended += more
        return ended

    # ── ratings ────────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, given: Given, rater: str, *, accept_old: bool = False) -> Stored:
        """Store a rating; sent again under the same id, nothing is changed and the first answer is repeated.

        Args:
            accept_old: the rater has seen that the question was changed, and means the words they saw.

        Raises:
            NotThere: the assignment is not this rater's.
            Conflict: there is a rating of it already and this one does not replace it, or replaces another one.
            RubricChanged: it answers an older version of the question.
            InputError: it does not answer what was asked.
        """
        with self._engine.connect() as connection:
            known = self._book.mine(connection, given.assignment, rater)
        campaign = self._book.campaign(known.campaign)
        with writing(self._engine, campaign=campaign.name, rater=rater, urgent=True, brief=True) as connection:
            return self._taking.take(connection, campaign, known, given, self._clock(), accept_old=accept_old)

    def progress(self, campaign: str, rater: str) -> Progress:
        """How far the campaign is, and this rater's part."""
        settings = self._book.campaign(campaign)
        mine = {"campaign": campaign, "rater": rater, "pace": _PACE}
        with self._engine.connect() as connection:
            wanted = connection.execute(self._book.sql.wanted, mine).scalar() or 0
            done = connection.execute(self._book.sql.done, mine).scalar() or 0
            totals = connection.execute(self._book.sql.totals, mine).first()
            newest = connection.execute(self._book.sql.pace, mine).scalars().all()
            shown = settings.gold is not None and settings.gold.shown
            gold = self._told_gold(connection, mine, 0 if totals is None else totals.gold_of) if shown else None
        times = [json.loads(content)["active_ms"] / 1000 for content in newest]
        return Progress(
            wanted=wanted,
            done=self._told(settings, int(done), wanted, totals),
            mine=0 if totals is None else totals.rated,
            gold=gold,
            median_s=median(times) if times else None,
        )

    def _told_gold(self, connection: Connection, mine: dict[str, Any], answered: int) -> tuple[int, int] | None:
        """How often a rater was right at gold, and of how many: of full tens, by what they said first. One that counted
        at once would say which it was and that it was wrong, and one can go back and say something else."""
        told = answered - answered % GOLD_TOLD
        if not told:
            return None
        first: dict[str, bool] = {}
        for row in connection.execute(self._book.sql.gold_said, mine):
            said = json.loads(row.content)["verdict"]
            right = gold_right(json.loads(row.expected or "null"), said, json.loads(row.shown))
            if right is not None:
                first.setdefault(row.assignment, right)
        judged = list(first.values())[:told]
        return sum(judged), len(judged)

    def _told(self, campaign: Campaign, done: int, wanted: int, mine: Row[Any] | None) -> int:
        """How many ratings there are, as a rater is told: of their own, as many as the shares of gold and repeats let
        expect. The number itself stands still after each of those, and who looks would know which they were."""
        mixed_in = campaign.repeat + (campaign.gold.share if campaign.gold else 0.0)
        if mine is None or not mixed_in or done >= wanted:
            return done
        expected = int(max(0, mine.rated - mine.training) * (1 - mixed_in))
        return min(done - mine.counted + expected, wanted - 1)

    def _campaign_of(self, assignment: str, rater: str) -> Campaign:
        with self._engine.connect() as connection:
            return self._book.campaign(self._book.mine(connection, assignment, rater).campaign)


def release(connection: Connection, openings: Openings, known: Row[Any], *, now: float, actor: str) -> None:
    """End the lease of an assignment and hand back what it held; nothing happens where it has none."""
    if not openings.end_lease(connection, known.id):
        return
    if known.kind == "normal":
        openings.give_back(connection, known.item, now)
    write_event(connection, "released", known.id, at=now, campaign=known.campaign, actor=actor)


def _lease(known: Row[Any], until: float) -> dict[str, Any]:
    return {
        "assignment": known.id,
        "campaign": known.campaign,
        "item": known.item,
        "rater": known.rater,
        "until": until,
    }
