"""A campaign from its file to the database: wording, items, gold, and ratings that were given before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmops.config import load
from llmops.database import open_database
from llmops.events import Listener
from llmops.feedback.campaign import Campaign, FromLedger, FromRows
from llmops.feedback.drawing import clustered
from llmops.feedback.finished import import_finished
from llmops.feedback.items import NewItem
from llmops.feedback.ratings import prompts
from llmops.feedback.store import add_items, campaign_named, check_scale, create_campaign, rubrics
from llmops.lifecycle.rated_items import Made, gold_of, items_of, named
from llmops.lifecycle.rated_models import with_records
from llmops.rubric import Rubric, load_rubric
from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Created:
    """A campaign that was made; `ratings` were imported with its items."""

    campaign: Campaign
    rubric: Rubric
    items: int
    gold: int
    clusters: int
    ratings: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def create(file: Path, *, workspace: Workspace, listener: Listener, dry_run: bool = False) -> Created:
    """Make the campaign that `file` describes, with all its items.

    Args:
        dry_run: read and check everything, and write nothing.

    Raises:
        FileFaults: the campaign or its rubric is wrong.
        InputError: a source cannot be read or has nothing to rate, or there is such a campaign already.
    """
    campaign = load(file, Campaign, what="campaign")
    rubric = load_rubric(Path(campaign.rubric))
    check_scale(campaign, rubric)
    engine = open_database(workspace)
    made = items_of(campaign, rubric, engine, random.SystemRandom(), listener=listener)
    asked = with_records(made.items, workspace) if isinstance(campaign.items, FromLedger) else made.items
    items = list(_told(clustered(asked), len(made.items), listener))
    gold = [] if campaign.gold is None else list(gold_of(campaign.gold.source, campaign.kind))
    ratings = 0
    if not dry_run:
        create_campaign(engine, campaign, rubric)
        add_items(
            engine, campaign.name, [*items, *gold],
            on_added=lambda done: listener.advance("storing items", done, len(items) + len(gold)),
        )  # fmt: skip
        if any(made.ratings):
            ratings = import_finished(engine, campaign.name, made.ratings, rubric)
    return _created(campaign, rubric, made, items, len(gold), ratings)


def add(name: str, source: FromRows, *, workspace: Workspace, listener: Listener) -> Created:
    """Put more items into a campaign that goes on.

    Raises:
        InputError: there is no such campaign, or the source cannot be read or has nothing to rate.
    """
    engine = open_database(workspace)
    campaign = campaign_named(engine, name)
    rubric = rubrics(engine, name)[-1]
    made = items_of(campaign.model_copy(update={"items": source}), rubric, engine, random.SystemRandom())
    # What is nearly the same as a prompt that is there already shares its cluster, or a split would part the two.
    items = list(_told(clustered(made.items, prompts(engine, name)), len(made.items), listener))
    if any(made.ratings):
        made = replace(made, ratings=(), notes=(*made.notes, "ratings in the file are not taken: the campaign goes on"))
    add_items(engine, name, items)
    return _created(campaign, rubric, made, items, 0, 0)


def _created(campaign: Campaign, rubric: Rubric, made: Made, items: list[NewItem], gold: int, ratings: int) -> Created:
    notes = list(made.notes)
    if made.left_out:
        notes.append(f"{len(made.left_out)} rows are left out: {named(made.left_out)}")
    clusters = len({item.cluster for item in items})
    return Created(campaign, rubric, len(items), gold, clusters, ratings, made.left_out, tuple(notes))


def _told(items: Iterator[NewItem], total: int, listener: Listener) -> Iterator[NewItem]:
    for done, item in enumerate(items, 1):
        yield item
        if done % 500 == 0 or done == total:
            listener.advance("comparing prompts", done, total)
