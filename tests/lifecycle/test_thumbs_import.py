"""Thumbs left in the ledger become ratings of a thumbs campaign, each once, the later of one hand superseding."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from llmops.database import open_database
from llmops.errors import InputError
from llmops.feedback.campaign import Campaign
from llmops.feedback.campaign_report import report_on
from llmops.feedback.desk import Desk
from llmops.feedback.raters import add_rater
from llmops.feedback.ratings import history, rated
from llmops.feedback.store import campaigns, create_campaign
from llmops.feedback.tasks import NoTask
from llmops.feedback.widget_pages import Thumb
from llmops.lifecycle.thumbs_import import Taken, import_thumbs
from llmops.lifecycle.widget_thumbs import kept_in_ledger
from llmops.rubric import load_rubric
from llmops.serve import ledger_tables
from llmops.serve.hooks import Feedback
from llmops.workspace import Workspace
from tests.lifecycle.kept_requests import keep

RUBRIC = load_rubric(Path(__file__).parents[2] / "feedback/rubrics/helpfulness.yaml")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    made = open_database(Workspace(tmp_path / "home"))
    for kind in ("thumbs", "pairwise"):
        settings = {"name": kind, "kind": kind, "rubric": "r", "items": {"from": "ledger"}}
        create_campaign(made, Campaign.model_validate(settings), RUBRIC)
    return made


def leave(engine: Engine, request: str, name: str, key: str | None, thumb: str | None, at: float) -> None:
    """What a client sent to `/v1/feedback`."""
    said = Feedback(request, at, caller=key, thumbs=thumb, score=None if thumb else 1.0)  # type: ignore[arg-type]
    with engine.begin() as connection:
        connection.execute(insert(ledger_tables.feedback()).values(**ledger_tables.feedback_row(name, said)))


def take(engine: Engine, campaign: str = "thumbs") -> Taken:
    return import_thumbs(engine, campaign, workspace=Workspace(Path(str(engine.url.database)).parent))


def verdicts(engine: Engine) -> list[list[bool]]:
    """By prompt: requests have random ids, and come in their order."""
    found = sorted(rated(engine, "thumbs"), key=lambda one: str(one.item.prompt))
    return [sorted(one.content["verdict"]["up"] for one in item.ratings) for item in found]


def test_both_ways_end_in_the_same_campaign_once_however_often_it_is_run(engine: Engine) -> None:
    now = time.time()
    one, two = keep(engine, "q1", "a"), keep(engine, "q2", "b")
    leave(engine, one, "f1", "k1", "up", now)
    leave(engine, one, "f2", None, "down", now)
    leave(engine, two, "f3", "k1", None, now)  # a score alone is no thumb
    widget = kept_in_ledger(engine)
    widget(Thumb("thumbs", two, True, "good", "ab" * 32, now))
    assert take(engine) == Taken(2, 3)
    assert verdicts(engine) == [[False, True], [True]]
    assert take(engine) == Taken(0, 0)
    found = report_on(engine, "thumbs")
    assert (found.items, found.complete, found.ratings, found.left) == (2, 2, 3, 0)
    add_rater(engine, "ann")
    assert isinstance(Desk(engine).next("thumbs", "ann"), NoTask), "nothing is left to rate"
    (state,) = [one for one in campaigns(engine) if one.campaign.name == "thumbs"]
    assert (state.wanted, state.done) == (3, 3)


def test_who_thinks_otherwise_later_is_heard_and_what_was_said_before_stays(engine: Engine) -> None:
    now = time.time()
    request = keep(engine, "q1", "a")
    leave(engine, request, "f1", "k1", "up", now)
    take(engine)
    leave(engine, request, "f2", "k1", "down", now + 1)
    assert take(engine) == Taken(0, 1)
    (item,) = rated(engine, "thumbs")
    (standing,) = item.ratings
    assert standing.content["verdict"]["up"] is False
    assert [one.content["verdict"]["up"] for one in history(engine, standing.assignment)] == [True, False]


def test_a_campaign_of_another_kind_takes_none(engine: Engine) -> None:
    with pytest.raises(InputError, match="is of kind pairwise"):
        take(engine, "pairwise")
