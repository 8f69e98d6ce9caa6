"""What is free of each item, and who holds what: found, taken, handed back, by the hundred thousand and at once.

A rater goes through the openings in their order, and a `Hand` says how far they are; so the next task costs the same
after 20,000 of them. What becomes free behind the hand is looked at first. A hand is a hint and no record: without it
the search begins at the start, and when nothing is found ahead, it does so again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.feedback.assign import Opening, first
from llmops.feedback.tables import table

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine

_MANY = 1_000
"""Openings behind a hand that are looked at one by one; where there are more, the search begins at the start."""
_MARGIN_S = 5.0
"""By how much clocks of several machines may differ without an opening being seen late."""
LOOK_S = 1.0
"""Seconds between two looks at what became free behind a hand, for those who rate faster than that."""
AGAIN_S = 30.0
"""Seconds between two searches of everything for one rater for whom nothing was found."""
_REAPED_AT_ONCE = 200
_TRIES = 20
_END = (2**31 - 1, 0)
"""Behind every rank."""


@dataclass(slots=True)
class Hand:
    """How far one rater is in one campaign.

    Attributes:
        after: rank and place behind which everything was looked at; None: nothing yet.
        looked: when what became free was last looked at to the end.
        dry: when everything was searched in vain.
    """

    after: tuple[int, int] | None = None
    looked: float = 0.0
    dry: float = float("-inf")


class Openings:
    """The statements, made once; each method belongs into a transaction of `writing`."""

    def __init__(self, engine: Engine) -> None:
        from sqlalchemy import and_, bindparam, delete, exists, literal_column, select, tuple_, update

        self._locks = engine.dialect.name == "postgresql"
        openings, leases, assignments = table("openings"), table("leases"), table("assignments")
        # Word for word as the index says it, or SQLite does not use it.
        free: ColumnElement[bool] = literal_column("openings.free > 0")
        had = exists().where(assignments.c.item == openings.c.item, assignments.c.rater == bindparam("rater"))
        columns = (openings.c.item, openings.c.rank, openings.c.place, openings.c.language)
        self._ahead = (
            select(*columns)
            .where(
                openings.c.campaign == bindparam("campaign"),
                openings.c.language == bindparam("language"),
                free,
                tuple_(openings.c.rank, openings.c.place) > tuple_(bindparam("rank"), bindparam("place")),
                ~had,
            )
            .order_by(openings.c.rank, openings.c.place)
            .limit(1)
        )
        self._ahead_locked = self._ahead.with_for_update(of=openings, skip_locked=True)
        self._returned = (
            select(*columns, had.label("had"))
            .where(
                openings.c.campaign == bindparam("campaign"),
                free,
                openings.c.since >= bindparam("since"),
                openings.c.since <= bindparam("upto"),
            )
            .order_by(openings.c.since)
            .limit(_MANY + 1)
        )
        one = select(openings.c.item).where(openings.c.item == bindparam("item"), free)
        self._lock = one.with_for_update(skip_locked=True)
        self._wait = one.with_for_update()
        self._take = (
            update(openings)
            .where(openings.c.item == bindparam("of"), openings.c.free > 0)
            .values(free=openings.c.free - 1)
        )
        self._give_back = (
            update(openings)
            .where(openings.c.item == bindparam("of"))
            .values(free=openings.c.free + 1, since=bindparam("now"))
        )
        self._expired = (
            select(leases.c.assignment, leases.c.item, assignments.c.kind)
            .join(assignments, assignments.c.id == leases.c.assignment)
            .where(leases.c.campaign == bindparam("campaign"), leases.c.until <= bindparam("now"))
            .order_by(leases.c.until)
            .limit(_REAPED_AT_ONCE)
            .with_for_update(of=leases, skip_locked=True)
        )
        self._any_expired = (
            select(leases.c.assignment)
            .where(leases.c.campaign == bindparam("campaign"), leases.c.until <= bindparam("now"))
            .limit(1)
        )
        self._end_lease = delete(leases).where(leases.c.assignment == bindparam("of"))
        self._any_open = select(openings.c.item).where(openings.c.campaign == bindparam("campaign"), free).limit(1)
        self._taken = (
            select(leases.c.until, openings.c.language)
            .join(openings, openings.c.item == leases.c.item)
            .join(assignments, and_(assignments.c.id == leases.c.assignment, assignments.c.kind == "normal"))
            .where(leases.c.campaign == bindparam("campaign"), leases.c.rater != bindparam("rater"))
            .where(
                ~select(assignments.c.id)
                .where(assignments.c.item == leases.c.item, assignments.c.rater == bindparam("rater"))
                .correlate(leases)
                .exists()
            )
            .order_by(leases.c.until)
        )

    # ── finding ────────────────────────────────────────────────────────────────────────────────────────────────────

    def pick(
        self, connection: Connection, campaign: str, rater: str, languages: tuple[str, ...], hand: Hand, now: float
    ) -> Opening | None:
        """The next opening for this rater, locked; moves the hand."""
        mine = {"campaign": campaign, "rater": rater}
        if hand.after is not None and now - hand.looked >= LOOK_S:
            found = self._behind(connection, mine, languages, hand, now)
            if found is not None:
                return found
        if hand.after is None:
            hand.looked = now
        found = self._from(connection, mine, languages, hand.after)
        if found is None and hand.after is not None:
            found = self._behind(connection, mine, languages, hand, now)
            if found is not None:
                return found
            if hand.after is None or now - hand.dry >= AGAIN_S:
                found = self._from(connection, mine, languages, None)
        if found is None and now - hand.dry >= AGAIN_S:
            if self._locks:
                found = self._waited_for(connection, mine, languages)
            if found is None:
                hand.dry = now
                hand.after = hand.after or _END
        if found is not None:
            hand.after = found.order
        return found

    def _behind(
        self, connection: Connection, mine: dict[str, Any], languages: tuple[str, ...], hand: Hand, now: float
    ) -> Opening | None:
        """The first of what became free behind the hand; where that is too much to look at, the hand begins anew."""
        assert hand.after is not None
        between = {"since": hand.looked - _MARGIN_S, "upto": now + _MARGIN_S}
        rows = connection.execute(self._returned, {**mine, **between}).all()
        if len(rows) > _MANY:
            hand.after, hand.looked = None, now
            return None
        known = [Opening(row.item, row.rank, row.place, row.language, bool(row.had)) for row in rows]
        behind = [one for one in known if one.order <= hand.after]
        while (best := first(behind, languages)) is not None:
            if not self._locks or connection.execute(self._lock, {"item": best.item}).first() is not None:
                return best
            behind.remove(best)
        hand.looked = now
        return None

    def _from(
        self,
        connection: Connection,
        mine: dict[str, Any],
        languages: tuple[str, ...],
        after: tuple[int, int] | None,
        *,
        locked: bool = True,
    ) -> Opening | None:
        rank, place = after or (-(2**31), -1)
        statement = self._ahead_locked if locked and self._locks else self._ahead
        found = [
            Opening(row.item, row.rank, row.place, row.language)
            for language in languages
            for row in connection.execute(statement, {**mine, "language": language, "rank": rank, "place": place})
        ]
        return first(found, languages)

    def _waited_for(self, connection: Connection, mine: dict[str, Any], languages: tuple[str, ...]) -> Opening | None:
        """Where others hold all that is free for a moment: the first of it once they are done."""
        for _ in range(_TRIES):
            found = self._from(connection, mine, languages, None, locked=False)
            if found is None or connection.execute(self._wait, {"item": found.item}).first() is not None:
                return found
        return None

    def any_open(self, connection: Connection, campaign: str) -> bool:
        return connection.execute(self._any_open, {"campaign": campaign}).first() is not None

    def taken_until(
        self, connection: Connection, campaign: str, rater: str, languages: tuple[str, ...]
    ) -> float | None:
        """When the first lease of somebody else ends on an item that this rater could have; None without one."""
        rows = connection.execute(self._taken, {"campaign": campaign, "rater": rater})
        return next((row.until for row in rows if row.language in languages), None)

    # ── taking and handing back ────────────────────────────────────────────────────────────────────────────────────

    def take(self, connection: Connection, item: str) -> bool:
        """Take one place of an item's overlap, if one is free."""
        return connection.execute(self._take, {"of": item}).rowcount == 1

    def give_back(self, connection: Connection, item: str, now: float) -> None:
        """Hand one place back."""
        connection.execute(self._give_back, {"of": item, "now": now})

    def end_lease(self, connection: Connection, assignment: str) -> bool:
        """End a lease; whether there was one."""
        return connection.execute(self._end_lease, {"of": assignment}).rowcount == 1

    def any_expired(self, connection: Connection, campaign: str, now: float) -> bool:
        return connection.execute(self._any_expired, {"campaign": campaign, "now": now}).first() is not None

    def reap(self, connection: Connection, campaign: str, now: float) -> int:
        """End leases whose time is over and hand back what they held; returns how many, `_REAPED_AT_ONCE` at most."""
        expired = connection.execute(self._expired, {"campaign": campaign, "now": now}).all()
        for row in sorted(expired, key=lambda one: one.item):  # in one order, so that no two wait for each other
            self.end_lease(connection, row.assignment)
            if row.kind == "normal":
                self.give_back(connection, row.item, now)
        return len(expired)
