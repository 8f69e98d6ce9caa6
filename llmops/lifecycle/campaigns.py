"""A campaign from its file to the database: wording, items, gold, and ratings that were given before."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.config import load
from llmops.database import open_database
from llmops.errors import InputError
from llmops.events import Listener
from llmops.feedback.campaign import Campaign, FromLedger, FromRows
from llmops.feedback.drawing import clustered
from llmops.feedback.finished import import_finished
from llmops.feedback.items import NewItem
from llmops.feedback.making import Beginning, begin, half_made, identities, identity
from llmops.feedback.making import made as is_made
from llmops.feedback.ratings import prompts
from llmops.feedback.store import add_items, campaign_named, check_scale, rubrics
from llmops.lifecycle.rated_items import Made, gold_of, items_of, named
from llmops.lifecycle.rated_models import with_records
from llmops.rubric import Rubric, load_rubric
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine


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

    One whose making was interrupted is made to the end: what is there of it stays.

    Args:
        dry_run: read and check everything, and write nothing.

    Raises:
        FileFaults: the campaign or its rubric is wrong.
        InputError: a source cannot be read or has nothing to rate; there is such a campaign already; or the file or its
            sources are not what they were when its making was interrupted.
    """
    campaign = load(file, Campaign, what="campaign")
    rubric = load_rubric(Path(campaign.rubric))
    check_scale(campaign, rubric)
    engine = open_database(workspace)
    interrupted = half_made(engine).get(campaign.name)
    beginning = interrupted or Beginning(time.time(), secrets.randbits(64))
    made = items_of(campaign, rubric, engine, random.Random(beginning.seed), at=beginning.at, listener=listener)
    asked = with_records(made.items, workspace) if isinstance(campaign.items, FromLedger) else made.items
    items = list(_told(clustered(asked), len(made.items), listener))
    gold = [] if campaign.gold is None else list(gold_of(campaign.gold.source, campaign.kind))
    there = 0
    if interrupted is not None:
        there = _check_same(engine, campaign, rubric, [*items, *gold])
        note = f"the making of {campaign.name} was interrupted after {there} of {len(items) + len(gold)} items"
        made = replace(made, notes=(*made.notes, note))
    ratings = 0
    if not dry_run:
        if interrupted is None:
            begin(engine, campaign, rubric, beginning)
        add_items(
            engine, campaign.name, [*items, *gold][there:], after=there,
            on_added=lambda done: listener.advance("storing items", there + done, len(items) + len(gold)),
        )  # fmt: skip
        if any(made.ratings):
            ratings = import_finished(engine, campaign.name, made.ratings, rubric)
        is_made(engine, campaign.name)
    return _created(campaign, rubric, made, items, len(gold), ratings)


def _check_same(engine: Engine, campaign: Campaign, rubric: Rubric, items: Sequence[NewItem]) -> int:
    """How many of the items a half-made campaign has already.

    Raises:
        InputError: it has others, or was described otherwise.
    """
    before = (campaign_named(engine, campaign.name), [one.digest for one in rubrics(engine, campaign.name)])
    there = list(identities(engine, campaign.name))
    if before != (campaign, [rubric.digest]) or there != [identity(item) for item in items[: len(there)]]:
        raise InputError(
            f"the making of campaign {campaign.name!r} was interrupted, and its file or what its items are drawn from "
            "has changed since",
            fix="give the campaign another `name`",
        )
    return len(there)


def add(name: str, source: FromRows, *, workspace: Workspace, listener: Listener) -> Created:
    """Put more items into a campaign that goes on; rows that it has already are left out.

    Raises:
        InputError: there is no such campaign, or the source cannot be read or has nothing to rate.
    """
    engine = open_database(workspace)
    campaign = campaign_named(engine, name)
    rubric = rubrics(engine, name)[-1]
    made = items_of(campaign.model_copy(update={"items": source}), rubric, engine, random.SystemRandom())
    there = set(identities(engine, name))
    new = [item for item in made.items if identity(item) not in there]
    if len(new) < len(made.items):
        note = f"{len(made.items) - len(new)} rows are left out: they are in the campaign already"
        made = replace(made, notes=(*made.notes, note))
    # What is nearly the same as a prompt that is there already shares its cluster, or a split would part the two.
    items = list(_told(clustered(new, prompts(engine, name)), len(new), listener))
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
