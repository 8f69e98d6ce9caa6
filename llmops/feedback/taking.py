"""Taking in: what a rating replaces, what it answers, whether it is needed; then it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError
from llmops.feedback import assign
from llmops.feedback.book import Book, newest_of
from llmops.feedback.campaign import Campaign
from llmops.feedback.checking import check_given, check_spans
from llmops.feedback.faults import Conflict, RubricChanged
from llmops.feedback.raters import write_pause
from llmops.feedback.sides import agrees, as_shown, by_place
from llmops.feedback.tasks import Stored
from llmops.feedback.verdicts import Given
from llmops.rubric import Rubric

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine import Row


class Taking:
    """Each method belongs into a transaction of `writing`."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def take(
        self, connection: Connection, campaign: Campaign, known: Row[Any], given: Given, now: float, *, accept_old: bool
    ) -> Stored:
        """Store a rating of the assignment `known`, once; see `Desk.submit`."""
        said = connection.execute(self._book.sql.said, {"id": given.id, "assignment": known.id}).all()
        stored = next((row for row in said if row.id == given.id), None)
        if stored is not None:
            return self._again(connection, stored, known)
        standing = self._book.standing(connection, campaign.name, known.rater)
        replaced = self._replaced(newest_of(said), given)
        rubric = self._asked(connection, campaign, given, standing.rubric, accept_old)
        check_given(given, campaign, rubric, len(json.loads(known.shown)))
        if given.spans:
            check_spans(given, self._book.responses(connection, campaign, known))
        return self._store(connection, campaign, known, given, replaced, now)

    def _again(self, connection: Connection, stored: Row[Any], known: Row[Any]) -> Stored:
        if stored.assignment != known.id:
            raise Conflict("another rating has this id", fix="send it under an id of its own", newest=None)
        return Stored(stored.id, True, bool(stored.surplus), self._expected(connection, known))

    def _replaced(self, newest: Row[Any] | None, given: Given) -> Row[Any] | None:
        """The rating that this one replaces; None where it is the first."""
        if (None if newest is None else newest.id) == given.supersedes:
            return newest
        if newest is None:
            raise Conflict("the rating that this one is to replace is not stored", fix="send that one first")
        raise Conflict(
            "this task has another rating" if given.supersedes is None else "what this replaces was replaced already",
            fix="load it again and change what is there",
            newest=newest.id,
        )

    def _asked(
        self, connection: Connection, campaign: Campaign, given: Given, current: str, accept_old: bool
    ) -> Rubric:
        """The rubric that a rating answers."""
        seen = self._book.rubric(connection, campaign.name, given.rubric)
        if seen is None:
            raise InputError(
                f"the campaign {campaign.name!r} never asked by a rubric {given.rubric[:12]!r}",
                fix="load the page again",
            )
        if given.rubric != current and not accept_old:
            raise RubricChanged(seen, self._book.current_rubric(connection, campaign.name, current))
        return seen

    def _store(
        self,
        connection: Connection,
        campaign: Campaign,
        known: Row[Any],
        given: Given,
        replaced: Row[Any] | None,
        now: float,
    ) -> Stored:
        wanted = given.verdict is not None
        leased = self._book.openings.end_lease(connection, known.id)
        before = replaced is not None and replaced.said == "verdict"
        filled = before and replaced is not None and not replaced.surplus
        surplus, counted = False, 0
        if known.kind == "normal":
            surplus, counted = self._fit(connection, known.item, held=leased or filled, wanted=wanted, now=now)
            counted -= filled
        stored = connection.execute(
            self._book.sql.add_rating,
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
        if stored.first() is None:  # another rater's rating took this id since we looked
            raise Conflict("another rating has this id", fix="send it under an id of its own")
        right, of = (0, 0) if known.kind != "gold" else self._gold_change(connection, known, given, replaced)
        self._book.count(
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
        match assign.claim(held=held, wanted=wanted):
            case "take":
                taken = self._book.openings.take(connection, item)
                return not taken, int(taken)
            case "give back":
                self._book.openings.give_back(connection, item, now)
        return False, int(wanted)

    def _gold_change(
        self, connection: Connection, known: Row[Any], given: Given, replaced: Row[Any] | None
    ) -> tuple[int, int]:
        """By how much this rating changes how many gold items were right, and of how many."""
        expected = json.loads(connection.execute(self._book.sql.expected, {"item": known.item}).scalar() or "null")
        shown = json.loads(known.shown)
        now = gold_right(expected, given.content()["verdict"], shown)
        before = None if replaced is None else gold_right(expected, json.loads(replaced.content)["verdict"], shown)
        return int(now is True) - int(before is True), int(now is not None) - int(before is not None)

    def _judge(self, connection: Connection, campaign: Campaign, rater: str, now: float) -> None:
        if campaign.pause is None:
            return
        standing = self._book.standing(connection, campaign.name, rater)
        right0, of0 = standing.judged_from
        of = max(standing.gold[1] - of0, 0)
        right = min(max(standing.gold[0] - right0, 0), of)
        if not standing.paused and assign.to_pause(
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
        expected = connection.execute(self._book.sql.expected, {"item": known.item}).scalar()
        return None if expected is None else as_shown(json.loads(expected), json.loads(known.shown))


def gold_right(
    expected: Mapping[str, Any] | None, verdict: Mapping[str, Any] | None, shown: Sequence[int]
) -> bool | None:
    """Whether a rater's verdict is the expected one; None where nobody can say, which is held against nobody."""
    if expected is None or verdict is None:
        return None
    return agrees(expected, by_place(verdict, shown))
