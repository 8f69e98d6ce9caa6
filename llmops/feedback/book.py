"""What the desk knows of campaigns, assignments and ratings, as it looks them up within a transaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmops.feedback.campaign import Campaign
from llmops.feedback.faults import NotThere
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

    def rubric(self, connection: Connection, campaign: str) -> Rubric:
        row = connection.execute(self.sql.rubric, {"campaign": campaign}).one()
        key = (campaign, row.digest)
        if key not in self._rubrics:
            content = connection.execute(self.sql.rubric_of, {"campaign": campaign, "digest": row.digest}).scalar()
            self._rubrics[key] = Rubric.model_validate_json(content or "")
        return self._rubrics[key]

    def mine(self, connection: Connection, assignment: str, rater: str) -> Row[Any]:
        row = connection.execute(self.sql.assignment, {"id": assignment}).first()
        if row is None or row.rater != rater:
            raise NotThere(f"you have no task {assignment[:40]!r}", fix="ask for the next one")
        return row

    def newest(self, connection: Connection, assignment: str) -> Row[Any] | None:
        """The rating of an assignment that no other one replaces."""
        rows = connection.execute(self.sql.ratings, {"assignment": assignment}).all()
        replaced = {row.supersedes for row in rows}
        return next((row for row in rows if row.id not in replaced), None)

    def task(self, connection: Connection, known: Row[Any]) -> Task:
        campaign = self.campaign(known.campaign)
        item = connection.execute(self.sql.item, {"item": known.item}).one()
        lease = connection.execute(self.sql.lease, {"assignment": known.id}).first()
        newest = self.newest(connection, known.id)
        return Task(
            assignment=known.id,
            campaign=campaign.name,
            kind=campaign.kind,
            until=known.until if lease is None else lease.until,
            rubric=self.rubric(connection, campaign.name),
            prompt=tuple(masked_message(one, campaign.mask) for one in json.loads(item.prompt)),
            responses=self.responses(connection, campaign, known),
            tags=campaign.tags,
            practice=known.kind == "training",
            given=None if newest is None else {"id": newest.id, **json.loads(newest.content)},
        )

    def responses(self, connection: Connection, campaign: Campaign, known: Row[Any]) -> tuple[str, ...]:
        """The texts as the rater sees them."""
        texts = connection.execute(self.sql.responses, {"item": known.item}).scalars().all()
        return tuple(masked(texts[place], campaign.mask) for place in json.loads(known.shown))

    def count(self, connection: Connection, campaign: str, rater: str, **changes: int) -> None:
        """Add to a rater's totals, which begin at nothing."""
        if any(changes.values()):
            row = {**NOTHING, **changes, "campaign": campaign, "rater": rater}
            connection.execute(self.sql.count, row)
