"""Ratings that were given elsewhere, taken over as they are: a campaign that begins finished."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from llmops.feedback.raters import add_rater
from llmops.feedback.rebuilding import rebuild
from llmops.feedback.store import AT_ONCE
from llmops.feedback.tables import table
from llmops.feedback.verdicts import Given
from llmops.feedback.writing import writing
from llmops.rubric import Rubric

if TYPE_CHECKING:
    from sqlalchemy import Engine

POLICY = "imported"
"""Of assignments that this service never gave out: answers were shown in the order of the file."""


def import_finished(
    engine: Engine, campaign: str, ratings: Sequence[Mapping[str, Mapping[str, Any]]], rubric: Rubric
) -> int:
    """Store what was said of the first items of a new campaign; how many ratings that were. What is there already of
    an import that was interrupted stays.

    Args:
        ratings: for each item, in the order of coming in, verdicts in places by the name of the rater in the source,
            which becomes part of the pseudonym: it is taken for one already.
    """
    now = time.time()
    pseudonyms = {name: f"{campaign}.{name}" for said in ratings for name in said}
    for pseudonym in pseudonyms.values():
        add_rater(engine, pseudonym, consent=POLICY)
    coming = iter(_items(engine, campaign, ratings))
    while batch := list(islice(coming, AT_ONCE)):
        assignments: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for item, answers, said in batch:
            for name, verdict in said.items():
                assignment, rating = uuid4().hex, str(uuid5(NAMESPACE_URL, f"{campaign}/{item}/{name}"))
                given = Given.model_validate_json(
                    json.dumps({"id": rating, "assignment": assignment, "rubric": rubric.digest, "verdict": verdict})
                )
                common = {"campaign": campaign, "item": item, "rater": pseudonyms[name], "at": now}
                shown = json.dumps(list(range(answers)))
                assignments.append(
                    {**common, "id": assignment, "round": 0, "kind": "normal", "until": now, "shown": shown,
                     "policy": POLICY}
                )  # fmt: skip
                rows.append(
                    {**common, "id": rating, "assignment": assignment, "rubric": rubric.digest, "said": "verdict",
                     "content": json.dumps(given.content()), "supersedes": None, "surplus": False}
                )  # fmt: skip
        with writing(engine, campaign=campaign) as connection:
            connection.execute(table("assignments").insert(), assignments)
            connection.execute(table("ratings").insert(), rows)
    rebuild(engine, campaign)
    return sum(len(said) for said in ratings)


def _items(
    engine: Engine, campaign: str, ratings: Sequence[Mapping[str, Mapping[str, Any]]]
) -> list[tuple[str, int, Mapping[str, Mapping[str, Any]]]]:
    """`(id, number of answers, what was said)` of the items that were rated and whose ratings are not there yet."""
    from sqlalchemy import exists, func, select

    items, responses, given = table("rated_items"), table("rated_responses"), table("assignments")
    imported = exists().where(given.c.item == items.c.id, given.c.policy == POLICY)
    wanted = (
        select(items.c.id, items.c.place, func.count(responses.c.place).label("answers"))
        .join(responses, responses.c.item == items.c.id)
        .where(items.c.campaign == campaign, items.c.place < len(ratings), ~imported)
        .group_by(items.c.id, items.c.place)
        .order_by(items.c.place)
    )
    with engine.connect() as connection:
        rows = connection.execute(wanted).all()
    return [(row.id, row.answers, ratings[row.place]) for row in rows if ratings[row.place]]
