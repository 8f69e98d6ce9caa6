"""Small campaigns in a database, and raters who work through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, text

from llmops.feedback.campaign import Campaign
from llmops.feedback.items import NewItem, Response
from llmops.feedback.raters import add_rater
from llmops.feedback.store import add_items, create_campaign
from llmops.feedback.tasks import Task
from llmops.feedback.verdicts import Given
from llmops.rubric import Rubric, load_rubric

REPOSITORY = Path(__file__).parents[2]
HELPFULNESS = load_rubric(REPOSITORY / "feedback/rubrics/helpfulness.yaml")
FLUENCY = load_rubric(REPOSITORY / "feedback/rubrics/fluency.yaml")
QUALITY = load_rubric(REPOSITORY / "feedback/rubrics/quality.yaml")
FIRST = {"kind": "pairwise", "step": 3}
"""A verdict: the first answer by far."""
START = 1_700_000_000.0


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def campaign_of(**settings: Any) -> Campaign:
    given = {
        "name": "c",
        "kind": "pairwise",
        "rubric": "feedback/rubrics/helpfulness.yaml",
        "items": {"from": "ledger"},
    }
    return Campaign.model_validate({**given, **settings})


def item(number: int = 0, responses: Sequence[str] = ("one", "two"), **more: Any) -> NewItem:
    return NewItem(
        prompt=[{"role": "user", "content": f"question {number}"}],
        responses=[Response(one, f"models:/secret/{place}") for place, one in enumerate(responses)],
        prompt_digest=f"prompt {number}",
        cluster=f"cluster {number}",
        source={"line": number},
        **more,
    )


def gold(number: int = 0, **more: Any) -> NewItem:
    return item(number, kind="gold", expected=FIRST, **more)


def start(
    engine: Engine,
    items: int | Iterable[NewItem],
    *,
    raters: Iterable[str] = (),
    rubric: Rubric = HELPFULNESS,
    **settings: Any,
) -> Campaign:
    """A campaign with its items, and raters who speak no language in particular."""
    campaign = campaign_of(**settings)
    create_campaign(engine, campaign, rubric, at=START)
    add_items(engine, campaign.name, map(item, range(items)) if isinstance(items, int) else items, at=START)
    for rater in raters:
        add_rater(engine, rater, at=START)
    return campaign


def given(task: Task, verdict: dict[str, Any] | None = FIRST, **more: Any) -> Given:
    """A rating of a task as the page sends it; None skips it."""
    if verdict is None:
        more["skip"] = "not my field"
    fields = {"id": str(uuid4()), "assignment": task.assignment, "rubric": task.rubric.digest, "active_ms": 1500}
    return Given.model_validate({**fields, "verdict": verdict, **more})


def standing(engine: Engine) -> dict[str, list[str]]:
    """Who fills the overlap of each item, counted anew from the ratings themselves."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT r.item, r.rater FROM ratings r JOIN assignments a ON a.id = r.assignment "
                "WHERE r.said = 'verdict' AND NOT r.surplus AND a.kind = 'normal' "
                "AND r.id NOT IN (SELECT supersedes FROM ratings WHERE supersedes IS NOT NULL)"
            )
        ).all()
    filled: dict[str, list[str]] = {}
    for row in rows:
        filled.setdefault(row.item, []).append(row.rater)
    return filled
