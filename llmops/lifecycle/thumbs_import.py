"""Thumbs that clients sent to `/v1/feedback` and visitors gave through the widget, as ratings of a thumbs campaign."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from llmops.errors import InputError
from llmops.feedback.campaign import FromLedger
from llmops.feedback.drawing import clustered
from llmops.feedback.items import NewItem
from llmops.feedback.raters import add_rater
from llmops.feedback.ratings import items, prompts
from llmops.feedback.rebuilding import rebuild
from llmops.feedback.store import add_items, campaign_named, reopen, rubrics
from llmops.feedback.tables import table
from llmops.feedback.verdicts import Given
from llmops.feedback.writing import writing
from llmops.lifecycle.rated_ledger import thumbs_given
from llmops.lifecycle.rated_models import with_records
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

POLICY = "thumbs"
"""Of assignments nobody was given: somebody said what they thought of an answer where they read it."""
ACTOR = "import-thumbs"


@dataclass(frozen=True, slots=True)
class Taken:
    """What was new: answers, and what was said of them."""

    items: int
    ratings: int


def import_thumbs(engine: Engine, name: str, *, workspace: Workspace) -> Taken:
    """Take over all thumbs that are not in the campaign yet; again, it takes what has come since.

    Whoever left a thumb (a key, or a token of the widget) is a rater of their own; a later thumb of the same on the
    same answer supersedes the earlier one. An answer that has more thumbs than it needs ratings is re-opened for them.

    Raises:
        NotThere: there is no such campaign.
        InputError: it asks for no thumbs.
    """
    campaign = campaign_named(engine, name)
    if campaign.kind != "thumbs":
        raise InputError(f"the campaign {name!r} is of kind {campaign.kind}", fix="name one of `kind: thumbs`")
    route = campaign.items.route if isinstance(campaign.items, FromLedger) else None
    found: dict[str, NewItem] = {}
    said: list[Mapping[str, Any]] = []
    for item, row in thumbs_given(engine, route):
        if row["thumb"] in ("up", "down"):
            found[row["request"]] = item
            said.append(row)
    known = _by_request(engine, name)
    new = [item for request, item in found.items() if request not in known]
    if new:
        add_items(engine, name, clustered(with_records(new, workspace), prompts(engine, name)))
    stored = _store(engine, name, said, _by_request(engine, name))
    rebuild(engine, name)
    return Taken(len(new), stored)


def _by_request(engine: Engine, campaign: str) -> dict[str, str]:
    """Ids of the campaign's items, by the request whose answer they show."""
    return {str(one.source["request"]): one.id for one in items(engine, campaign) if "request" in one.source}


def _store(engine: Engine, campaign: str, said: Sequence[Mapping[str, Any]], known: Mapping[str, str]) -> int:
    from sqlalchemy import select

    rubric = rubrics(engine, campaign)[-1].digest
    given, kept, openings = table("assignments"), table("ratings"), table("openings")
    with engine.connect() as connection:
        there = set(connection.execute(select(given.c.id).where(given.c.campaign == campaign)).scalars())
        rated = set(connection.execute(select(kept.c.id).where(kept.c.campaign == campaign)).scalars())
        free = {
            row.item: row.free
            for row in connection.execute(
                select(openings.c.item, openings.c.free).where(openings.c.campaign == campaign)
            )
        }
    assignments: list[dict[str, Any]] = []
    ratings: list[dict[str, Any]] = []
    newest: dict[str, str] = {}
    for row in sorted(said, key=lambda one: (one["at"], one["id"])):
        who = row["key"] or f"row {row['id']}"
        assignment = uuid5(NAMESPACE_URL, f"{campaign}/{row['request']}/{who}").hex
        rating = str(uuid5(NAMESPACE_URL, f"{campaign}/thumb/{row['id']}"))
        common = {
            "campaign": campaign,
            "item": known[row["request"]],
            "rater": f"r-{uuid5(NAMESPACE_URL, f'{campaign}/by/{who}').hex[:16]}",
            "at": row["at"],
        }
        if assignment not in there:
            there.add(assignment)
            assignments.append(
                {**common, "id": assignment, "round": 0, "kind": "normal", "until": row["at"], "shown": "[0]",
                 "policy": POLICY}
            )  # fmt: skip
        if rating not in rated:
            verdict = {"kind": "thumbs", "up": row["thumb"] == "up"}
            content = Given.model_validate(
                {"id": rating, "assignment": assignment, "rubric": rubric, "verdict": verdict,
                 "comment": row["comment"] or ""}
            ).content()  # fmt: skip
            ratings.append(
                {**common, "id": rating, "assignment": assignment, "rubric": rubric, "said": "verdict",
                 "content": json.dumps(content), "supersedes": newest.get(assignment), "surplus": False}
            )  # fmt: skip
        newest[assignment] = rating
    for rater in {one["rater"] for one in assignments}:
        add_rater(engine, rater, consent=POLICY)
    for item, many in Counter(one["item"] for one in assignments).items():
        if (lacking := many - max(free[item], 0)) > 0:
            reopen(engine, campaign, [item], more=lacking, actor=ACTOR)
    with writing(engine, campaign=campaign) as connection:
        if assignments:
            connection.execute(given.insert(), assignments)
        if ratings:
            connection.execute(kept.insert(), ratings)
    return len(ratings)
