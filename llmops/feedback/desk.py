"""The desk where raters get their tasks and hand in their ratings: each call is one transaction, done or not done.

A rating is stored once however often it is sent. An item that needs n ratings gets n from n raters; one that came too
late, when others had filled the overlap, is kept and marked as surplus.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from random import Random, SystemRandom
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmops.errors import InputError
from llmops.feedback import assign
from llmops.feedback.campaign import Campaign
from llmops.feedback.checking import check_given
from llmops.feedback.events import write_event
from llmops.feedback.faults import Conflict, LeaseLost, NotThere, RubricChanged
from llmops.feedback.items import Rater
from llmops.feedback.openings import Hand, Openings
from llmops.feedback.raters import ensure_totals, rater_named, write_pause
from llmops.feedback.sides import agrees, as_shown, by_place, masked, masked_message
from llmops.feedback.statements import Statements
from llmops.feedback.store import campaign_named
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Progress, Stored, Task
from llmops.feedback.verdicts import Given
from llmops.feedback.writing import writing
from llmops.rubric import Rubric

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import Row

_HANDS = 10_000
"""Raters whose place in a campaign is remembered; the longest unseen is forgotten, which costs them one search."""
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
        self._random = random or SystemRandom()
        self._salt = f"{self._random.getrandbits(128):032x}"
        self._openings = Openings(engine)
        self._sql = Statements(engine)
        self._campaigns: dict[str, Campaign] = {}
        self._rubrics: dict[tuple[str, str], Rubric] = {}
        self._hands: OrderedDict[tuple[str, str], Hand] = OrderedDict()
        self._guard = Lock()

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
            return self._task(connection, self._mine(connection, assignment, rater))

    def previous(self, campaign: str, rater: str, before: str | None = None) -> Task | None:
        """The task this rater rated, or skipped, before another one; None where there is none.

        Args:
            before: an assignment of theirs; None for the newest that was rated.
        """
        with self._engine.connect() as connection:
            at, name = float("inf"), ""
            if before is not None:
                known = self._mine(connection, before, rater)
                at, name = known.at, known.id
            wanted = {"campaign": campaign, "rater": rater, "at": min(at, 1e300), "name": name}
            row = connection.execute(self._sql.previous, wanted).first()
            return None if row is None else self._task(connection, row)

    def extend(self, assignment: str, rater: str) -> float:
        """Keep a task for longer; when its lease ends now. Most of a lease being left, nothing changes.

        Raises:
            NotThere: it is not this rater's.
            LeaseLost: the lease ended, and others have the item now.
            Conflict: it was rated already.
        """
        campaign = self._campaign_of(assignment, rater)
        with writing(self._engine, campaign=campaign.name, rater=rater) as connection:
            now = self._clock()
            known = self._mine(connection, assignment, rater)
            lease = connection.execute(self._sql.lease, {"assignment": assignment}).first()
            if lease is None:
                self._take_again(connection, known, rater)
                until = now + campaign.lease_minutes * 60
                connection.execute(self._sql.add_lease, _lease(known, until))
            else:
                until = assign.extended(lease.until, now, campaign.lease_minutes * 60)
                if until == lease.until:
                    return until
                connection.execute(self._sql.move_lease, {"of": assignment, "to": until})
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
        if connection.execute(self._sql.ratings, {"assignment": known.id}).first() is not None:
            raise Conflict("this task is rated already", fix="go on with the next one")
        if known.kind == "normal" and not self._openings.take(connection, known.item):
            raise LeaseLost(
                "the time for this task ended, and somebody else has it",
                fix="what you have written can be sent all the same, and is kept; then go on with the next one",
            )

    def release(self, assignment: str, rater: str) -> None:
        """Give a task back unrated, for others; this rater is not given it again. Nothing happens the second time."""
        campaign = self._campaign_of(assignment, rater)
        with writing(self._engine, campaign=campaign.name, rater=rater) as connection:
            known = self._mine(connection, assignment, rater)
            release(connection, self._openings, known, now=self._clock(), actor=rater)

    def _give(self, name: str, rater: str, nth: int) -> Task | NoTask:
        campaign = self._campaign(name)
        self._reap(name)
        with writing(self._engine, campaign=name, rater=rater) as connection:
            given = self._assigned(connection, campaign, rater, nth)
        if isinstance(given, NoTask):
            return given
        with self._engine.connect() as connection:
            return self._task(connection, self._mine(connection, given, rater))

    def _reap(self, campaign: str) -> None:
        now = self._clock()
        with self._engine.connect() as connection:
            some = self._openings.any_expired(connection, campaign, now)
        while some:
            with writing(self._engine, campaign=campaign) as connection:
                some = self._openings.reap(connection, campaign, now) > 0

    def _assigned(self, connection: Connection, campaign: Campaign, rater: str, nth: int) -> str | NoTask:
        """The id of the nth assignment that is out to a rater, a new one where fewer are."""
        now = self._clock()
        mine = {"campaign": campaign.name, "rater": rater}
        person = rater_named(connection, rater)
        if person is None:
            raise NotThere(f"there is no rater {rater!r}", fix="log in again")
        totals = connection.execute(self._sql.totals, mine).first()
        if totals is not None and totals.paused:
            return NoTask("paused")
        out = connection.execute(self._sql.out, {**mine, "now": now}).scalars().all()
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
            open_or_out=self._openings.any_open(connection, campaign.name),
            had_any=had_any,
            taken_until=self._openings.taken_until(connection, campaign.name, rater, languages),
            now=now,
        )

    def _languages(self, connection: Connection, campaign: str, person: Rater) -> tuple[str, ...]:
        known = connection.execute(self._sql.languages, {"campaign": campaign}).scalar() or "[]"
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
            opening = self._openings.pick(connection, campaign.name, person.id, languages, hand, now)
            if opening is None or not self._openings.take(connection, opening.item):
                return None
            return opening.item, 0
        if kind == "repeat":
            return self._to_repeat(connection, mine)
        golds: dict[str, assign.Gold] = {}
        for row in connection.execute(self._sql.golds, mine):
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
        first = connection.execute(self._sql.first_at, mine).scalar()
        last = connection.execute(self._sql.nth_last_at, {**mine, "gap": assign.REPEAT_GAP - 1}).scalar()
        if first is None or last is None:
            return None
        for start in (self._random.uniform(first, last), first):
            row = connection.execute(self._sql.repeatable, {**mine, "start": start, "end": last}).first()
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
        responses = connection.execute(self._sql.response_count, {"item": item}).scalar_one()
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
        connection.execute(self._sql.add_assignment, row)
        connection.execute(
            self._sql.add_lease,
            {"assignment": row["id"], "campaign": campaign.name, "item": item, "rater": rater, "until": until},
        )
        self._count(connection, campaign.name, rater, **{kind: 1})
        return str(row["id"])

    def _count(self, connection: Connection, campaign: str, rater: str, **changes: int) -> None:
        from sqlalchemy import update

        totals = table("rater_totals")
        changes = {name: by for name, by in changes.items() if by}
        if not changes:
            return
        ensure_totals(connection, campaign, rater)
        connection.execute(
            update(totals)
            .where(totals.c.campaign == campaign, totals.c.rater == rater)
            .values({totals.c[name]: totals.c[name] + by for name, by in changes.items()})
        )

    def _hand(self, campaign: str, rater: str) -> Hand:
        with self._guard:
            hand = self._hands.setdefault((campaign, rater), Hand())
            self._hands.move_to_end((campaign, rater))
            if len(self._hands) > _HANDS:
                self._hands.popitem(last=False)
            return hand

    def _task(self, connection: Connection, known: Row[Any]) -> Task:
        campaign = self._campaign(known.campaign)
        item = connection.execute(self._sql.item, {"item": known.item}).one()
        lease = connection.execute(self._sql.lease, {"assignment": known.id}).first()
        newest = self._newest(connection, known.id)
        return Task(
            assignment=known.id,
            campaign=campaign.name,
            kind=campaign.kind,
            until=known.until if lease is None else lease.until,
            rubric=self._rubric(connection, campaign.name),
            prompt=tuple(masked_message(one, campaign.mask) for one in json.loads(item.prompt)),
            responses=self._responses(connection, campaign, known),
            tags=campaign.tags,
            practice=known.kind == "training",
            given=None if newest is None else {"id": newest.id, **json.loads(newest.content)},
        )

    def _responses(self, connection: Connection, campaign: Campaign, known: Row[Any]) -> tuple[str, ...]:
        """The texts as the rater sees them."""
        texts = connection.execute(self._sql.responses, {"item": known.item}).scalars().all()
        return tuple(masked(texts[place], campaign.mask) for place in json.loads(known.shown))

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
        campaign = self._campaign_of(given.assignment, rater)
        with writing(self._engine, campaign=campaign.name, rater=rater) as connection:
            known = self._mine(connection, given.assignment, rater)
            stored = connection.execute(self._sql.rating, {"id": given.id}).first()
            if stored is not None:
                return self._again(connection, stored, known)
            if rater_named(connection, rater) is None:
                raise NotThere(f"there is no rater {rater!r}", fix="log in again")
            replaced = self._replaced(connection, given)
            rubric = self._asked(connection, campaign, given, accept_old)
            check_given(given, campaign, rubric, self._responses(connection, campaign, known))
            return self._store(connection, campaign, known, given, replaced)

    def _again(self, connection: Connection, stored: Row[Any], known: Row[Any]) -> Stored:
        if stored.assignment != known.id:
            raise Conflict("another rating has this id", fix="send it under an id of its own", newest=None)
        return Stored(stored.id, True, bool(stored.surplus), self._expected(connection, known))

    def _replaced(self, connection: Connection, given: Given) -> Row[Any] | None:
        newest = self._newest(connection, given.assignment)
        if (None if newest is None else newest.id) == given.supersedes:
            return newest
        if newest is None:
            raise Conflict("the rating that this one is to replace is not stored", fix="send that one first")
        raise Conflict(
            "this task has another rating" if given.supersedes is None else "what this replaces was replaced already",
            fix="load it again and change what is there",
            newest=newest.id,
        )

    def _asked(self, connection: Connection, campaign: Campaign, given: Given, accept_old: bool) -> Rubric:
        """The rubric that a rating answers."""
        current = self._rubric(connection, campaign.name)
        if given.rubric == current.digest:
            return current
        content = connection.execute(self._sql.rubric_of, {"campaign": campaign.name, "digest": given.rubric}).scalar()
        if content is None:
            raise InputError(
                f"the campaign {campaign.name!r} never asked by a rubric {given.rubric[:12]!r}",
                fix="load the page again",
            )
        seen = Rubric.model_validate_json(content)
        if not accept_old:
            raise RubricChanged(seen, current)
        return seen

    def _store(
        self, connection: Connection, campaign: Campaign, known: Row[Any], given: Given, replaced: Row[Any] | None
    ) -> Stored:
        now = self._clock()
        wanted = given.verdict is not None
        leased = self._openings.end_lease(connection, known.id)
        before = replaced is not None and replaced.said == "verdict"
        filled = before and replaced is not None and not replaced.surplus
        surplus, counted = False, 0
        if known.kind == "normal":
            surplus, counted = self._fit(connection, known.item, held=leased or filled, wanted=wanted, now=now)
            counted -= filled
        added = connection.execute(
            self._sql.add_rating,
            {
                "id": given.id,
                "assignment": known.id,
                "campaign": known.campaign,
                "item": known.item,
                "rater": known.rater,
                "at": now,
                "rubric": given.rubric,
                "said": "verdict" if wanted else "skip",
                "content": json.dumps(given.content()),
                "supersedes": given.supersedes,
                "surplus": surplus,
            },
        )
        if added.rowcount != 1:  # another rater's rating took this id since we looked
            raise Conflict("another rating has this id", fix="send it under an id of its own")
        right, of = (0, 0) if known.kind != "gold" else self._gold_change(connection, known, given, replaced)
        self._count(
            connection,
            known.campaign,
            known.rater,
            rated=int(wanted) - int(before),
            counted=counted,
            gold_right=right,
            gold_of=of,
        )
        if of or right:
            self._judge(connection, campaign, known.rater, now)
        return Stored(given.id, False, surplus, self._expected(connection, known))

    def _fit(self, connection: Connection, item: str, *, held: bool, wanted: bool, now: float) -> tuple[bool, int]:
        """Bring the item's overlap up to date; whether the rating is surplus, and 1 where it fills a place."""
        if wanted and not held:
            taken = self._openings.take(connection, item)
            return not taken, int(taken)
        if held and not wanted:
            self._openings.give_back(connection, item, now)
        return False, int(wanted)

    def _gold_change(
        self, connection: Connection, known: Row[Any], given: Given, replaced: Row[Any] | None
    ) -> tuple[int, int]:
        """By how much this rating changes how many gold items were right, and of how many."""
        expected = json.loads(connection.execute(self._sql.expected, {"item": known.item}).scalar() or "null")
        shown = json.loads(known.shown)
        now = gold_right(expected, given.content()["verdict"], shown)
        before = None if replaced is None else gold_right(expected, json.loads(replaced.content)["verdict"], shown)
        return int(now is True) - int(before is True), int(now is not None) - int(before is not None)

    def _judge(self, connection: Connection, campaign: Campaign, rater: str, now: float) -> None:
        if campaign.pause is None:
            return
        totals = connection.execute(self._sql.totals, {"campaign": campaign.name, "rater": rater}).one()
        right0, of0 = json.loads(totals.judged_from)
        of = max(totals.gold_of - of0, 0)
        right = min(max(totals.gold_right - right0, 0), of)
        if not totals.paused and assign.to_pause(
            right, of, below=campaign.pause.gold_below, after=campaign.pause.after
        ):
            write_pause(
                connection,
                campaign.name,
                rater,
                at=now,
                actor="service",
                detail={"reason": "gold", "right": right, "of": of},
            )

    def _expected(self, connection: Connection, known: Row[Any]) -> Mapping[str, Any] | None:
        if known.kind != "training":
            return None
        expected = connection.execute(self._sql.expected, {"item": known.item}).scalar()
        return None if expected is None else as_shown(json.loads(expected), json.loads(known.shown))

    def progress(self, campaign: str, rater: str) -> Progress:
        """How far the campaign is, and this rater's part."""
        settings = self._campaign(campaign)
        mine = {"campaign": campaign, "rater": rater, "pace": _PACE}
        with self._engine.connect() as connection:
            wanted = connection.execute(self._sql.wanted, mine).scalar() or 0
            done = connection.execute(self._sql.done, mine).scalar() or 0
            totals = connection.execute(self._sql.totals, mine).first()
            newest = connection.execute(self._sql.pace, mine).scalars().all()
        times = [json.loads(content)["active_ms"] / 1000 for content in newest]
        shown = settings.gold is not None and settings.gold.shown
        right, of = (0, 0) if totals is None else (totals.gold_right, totals.gold_of)
        return Progress(
            wanted=wanted,
            done=int(done),
            mine=0 if totals is None else totals.rated,
            gold=(right, of) if shown else None,
            median_s=median(times) if times else None,
        )

    # ── what is known ──────────────────────────────────────────────────────────────────────────────────────────────

    def _campaign(self, name: str) -> Campaign:
        """Its settings, which never change."""
        if name not in self._campaigns:
            self._campaigns[name] = campaign_named(self._engine, name)
        return self._campaigns[name]

    def _campaign_of(self, assignment: str, rater: str) -> Campaign:
        with self._engine.connect() as connection:
            return self._campaign(self._mine(connection, assignment, rater).campaign)

    def _rubric(self, connection: Connection, campaign: str) -> Rubric:
        row = connection.execute(self._sql.rubric, {"campaign": campaign}).one()
        key = (campaign, row.digest)
        if key not in self._rubrics:
            content = connection.execute(self._sql.rubric_of, {"campaign": campaign, "digest": row.digest}).scalar()
            self._rubrics[key] = Rubric.model_validate_json(content or "")
        return self._rubrics[key]

    def _mine(self, connection: Connection, assignment: str, rater: str) -> Row[Any]:
        row = connection.execute(self._sql.assignment, {"id": assignment}).first()
        if row is None or row.rater != rater:
            raise NotThere(f"you have no task {assignment[:40]!r}", fix="ask for the next one")
        return row

    def _newest(self, connection: Connection, assignment: str) -> Row[Any] | None:
        """The rating of an assignment that no other one replaces."""
        rows = connection.execute(self._sql.ratings, {"assignment": assignment}).all()
        replaced = {row.supersedes for row in rows}
        return next((row for row in rows if row.id not in replaced), None)


def release(connection: Connection, openings: Openings, known: Row[Any], *, now: float, actor: str) -> None:
    """End the lease of an assignment and hand back what it held; nothing happens where it has none."""
    if not openings.end_lease(connection, known.id):
        return
    if known.kind == "normal":
        openings.give_back(connection, known.item, now)
    write_event(connection, "released", known.id, at=now, campaign=known.campaign, actor=actor)


def gold_right(
    expected: Mapping[str, Any] | None, verdict: Mapping[str, Any] | None, shown: Sequence[int]
) -> bool | None:
    """Whether a rater's verdict is the expected one; None where nobody can say, which is held against nobody."""
    if expected is None or verdict is None:
        return None
    return agrees(expected, by_place(verdict, shown))


def _shares(campaign: Campaign) -> assign.Shares:
    gold = campaign.gold
    return assign.Shares(gold.training if gold else 0, gold.share if gold else 0.0, campaign.repeat)


def _lease(known: Row[Any], until: float) -> dict[str, Any]:
    return {
        "assignment": known.id,
        "campaign": known.campaign,
        "item": known.item,
        "rater": known.rater,
        "until": until,
    }
