"""A campaign in the making: begun, filled, made; and what is there already of one that was interrupted.

Items come in transactions of thousands, so that raters wait for no import. Where the process ends between two of them,
nothing is taken back: the same sources, drawn from by the same seed, give the same items again, and those that are
missing are added.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llmops.feedback.events import write_event
from llmops.feedback.items import NewItem
from llmops.feedback.store import create_campaign
from llmops.feedback.tables import storable, table
from llmops.feedback.writing import writing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from llmops.feedback.campaign import Campaign
    from llmops.rubric import Rubric

_BEGUN, _MADE = "begun", "made"


@dataclass(frozen=True, slots=True)
class Beginning:
    """When a campaign was begun, and the seed its items are drawn by."""

    at: float
    seed: int


def begin(engine: Engine, campaign: Campaign, rubric: Rubric, beginning: Beginning) -> None:
    """Begin a campaign that `made` ends; see `create_campaign` for what it raises."""

    def note(connection: Connection) -> None:
        detail = {"seed": beginning.seed}
        write_event(connection, _BEGUN, campaign.name, at=beginning.at, campaign=campaign.name, detail=detail)

    create_campaign(engine, campaign, rubric, at=beginning.at, also=note)


def made(engine: Engine, campaign: str) -> None:
    """All of it is there."""
    with writing(engine) as connection:
        write_event(connection, _MADE, campaign, at=time.time(), campaign=campaign)


def half_made(engine: Engine) -> dict[str, Beginning]:
    """Campaigns that were begun and are not there as a whole, by their names."""
    from sqlalchemy import exists, select

    events, later = table("rating_events"), table("rating_events").alias()
    wanted = select(events.c.subject, events.c.at, events.c.detail).where(
        events.c.kind == _BEGUN, ~exists().where(later.c.subject == events.c.subject, later.c.kind == _MADE)
    )
    with engine.connect() as connection:
        return {
            row.subject: Beginning(row.at, int(json.loads(row.detail)["seed"])) for row in connection.execute(wanted)
        }


def identity(item: NewItem) -> bytes:
    """Digest of where an item comes from, what was asked and what was answered: another import of it has the same."""
    return _digest(item.prompt_digest, item.source, [one.text for one in item.responses])


def identities(engine: Engine, campaign: str) -> Iterator[bytes]:
    """Those of a campaign's items, in the order they came in."""
    from sqlalchemy import select

    items, responses = table("rated_items"), table("rated_responses")
    wanted = (
        select(items.c.place, items.c.prompt_digest, items.c.source, responses.c.text)
        .join(responses, responses.c.item == items.c.id)
        .where(items.c.campaign == campaign)
        .order_by(items.c.place, responses.c.place)
    )
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=1000).execute(wanted)
        for _, group in groupby(rows, lambda row: row.place):
            first, *rest = group
            texts = [first.text, *(row.text for row in rest)]
            yield _digest(first.prompt_digest, json.loads(first.source), texts)


def _digest(prompt: str, source: Mapping[str, Any], texts: Sequence[str]) -> bytes:
    whole = json.dumps([prompt, dict(source), [storable(text) for text in texts]], sort_keys=True)
    return hashlib.sha256(whole.encode()).digest()
