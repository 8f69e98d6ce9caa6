"""What the desk knows of campaigns, assignments and ratings, as it looks them up within a transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops.feedback.assign import Counts
from llmops.feedback.campaign import Campaign
from llmops.feedback.faults import NotThere
from llmops.feedback.items import Rater
from llmops.feedback.openings import Openings
from llmops.feedback.raters import NOTHING
from llmops.feedback.sides import masked, masked_message
from llmops.feedback.statements import Statements
from llmops.feedback.store import campaign_named
from llmops.feedback.tasks import Task
from llmops.rubric import Rubric

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import Row


@dataclass(frozen=True, slots=True)
class Standing:
    """A rater in a campaign, at one look.

    Attributes:
        gold: how many gold items agreed, and of how many; up to `judged_from` they are forgiven.
        languages: that the campaign's items have.
        rubric: digest of what is asked now.
    """

    person: Rater
    counts: Counts
    paused: bool
    gold: tuple[int, int]
    judged_from: tuple[int, ...]
    languages: tuple[str, ...]
    rubric: str


class Book:
    """Looks things up; what never changes, settings and wordings, once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.openings = Openings(engine)
        self.sql = Statements(engine)
        self._campaigns: dict[str, Campaign] = {}
        self._rubrics: dict[tuple[str, str], Rubric] = {}

    def campaign(self, name: str) -> Campaign:
        """Its settings, which never change."""
        if name not in self._campaigns:
            self._campaigns[name] = campaign_named(self.engine, name)
        return self._campaigns[name]

    def rubric(self, connection: Connection, campaign: str, digest: str) -> Rubric | None:
        """One of the wordings a campaign has had; None where it never had that."""
        if (campaign, digest) not in self._rubrics:
            wanted = {"campaign": campaign, "digest": digest}
            content = connection.execute(self.sql.rubric_of, wanted).scalar()
            if content is None:
                return None
            self._rubrics[campaign, digest] = Rubric.model_validate_json(content)
        return self._rubrics[campaign, digest]

    def current_rubric(self, connection: Connection, campaign: str, digest: str | None = None) -> Rubric:
        """What is asked now; its digest, where it is known already, spares a look."""
        newest = digest or connection.execute(self.sql.rubric, {"campaign": campaign}).scalar_one()
        current = self.rubric(connection, campaign, newest)
        assert current is not None
        return current

    def standing(self, connection: Connection, campaign: str, rater: str) -> Standing:
        """Raises NotThere where there is no such rater."""
        row = connection.execute(self.sql.standing, {"campaign": campaign, "rater": rater}).first()
        if row is None:
            raise NotThere(f"there is no rater {rater!r}", fix="log in again")
        new = row.paused is None
        return Standing(
            person=Rater(row.id, tuple(json.loads(row.languages)), tuple(json.loads(row.qualifications)), row.consent),
            counts=Counts() if new else Counts(row.normal, row.gold, row.repeat, row.training),
            paused=bool(row.paused),
            gold=(0, 0) if new else (row.gold_right, row.gold_of),
            judged_from=(0, 0) if new else tuple(json.loads(row.judged_from)),
            languages=tuple(json.loads(row.has or "[]")),
            rubric=row.digest,
        )

    def mine(self, connection: Connection, assignment: str, rater: str) -> Row[Any]:
        row = connection.execute(self.sql.assignment, {"id": assignment}).first()
        if row is None or row.rater != rater:
            raise NotThere(f"you have no task {assignment[:40]!r}", fix="ask for the next one")
        return row

    def newest(self, connection: Connection, assignment: str) -> Row[Any] | None:
        """The rating of an assignment that no other one replaces."""
        return newest_of(connection.execute(self.sql.ratings, {"assignment": assignment}).all())

    def task(self, connection: Connection, known: Row[Any]) -> Task:
        """One assignment as its rater sees it, with what they said of it."""
        lease = connection.execute(self.sql.lease, {"assignment": known.id}).first()
        newest = self.newest(connection, known.id)
        return self.shown(
            known._asdict(),
            connection.execute(self.sql.material, {"item": known.item}).all(),
            self.current_rubric(connection, known.campaign),
            until=known.until if lease is None else lease.until,
            given=None if newest is None else {"id": newest.id, **json.loads(newest.content)},
        )

    def shown(
        self,
        known: Mapping[str, Any],
        material: Sequence[Row[Any, Any]],
        rubric: Rubric,
        *,
        until: float,
        given: Mapping[str, Any] | None = None,
    ) -> Task:
        """An assignment's row and its item's texts as a task."""
        campaign = self.campaign(known["campaign"])
        return Task(
            assignment=known["id"],
            campaign=campaign.name,
            kind=campaign.kind,
            until=until,
            rubric=rubric,
            prompt=tuple(masked_message(one, campaign.mask) for one in json.loads(material[0].prompt)),
            responses=tuple(masked(material[place].text, campaign.mask) for place in json.loads(known["shown"])),
            tags=campaign.tags,
            practice=known["kind"] == "training",
            given=given,
        )

    def responses(self, connection: Connection, campaign: Campaign, known: Row[Any]) -> tuple[str, ...]:
        """The texts as the rater sees them."""
        material = connection.execute(self.sql.material, {"item": known.item}).all()
        return tuple(masked(material[place].text, campaign.mask) for place in json.loads(known.shown))

    def count(self, connection: Connection, campaign: str, rater: str, **changes: int) -> None:
        """Add to a rater's totals, which begin at nothing."""
        if any(changes.values()):
            row = {**NOTHING, **changes, "campaign": campaign, "rater": rater}
            connection.execute(self.sql.count, row)


def newest_of(rows: Sequence[Row[Any]]) -> Row[Any] | None:
    """Of the ratings of one assignment the one that no other replaces."""
    replaced = {row.supersedes for row in rows}
    return next((row for row in rows if row.id not in replaced), None)
