"""Campaigns, their wording and their items: made, added to, re-opened, listed. Nothing of it is ever overwritten."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llmops.errors import InputError, nearest
from llmops.feedback.campaign import Campaign
from llmops.feedback.checking import expected_fault, full_verdict
from llmops.feedback.events import write_event
from llmops.feedback.faults import NotThere
from llmops.feedback.items import NewItem
from llmops.feedback.tables import storable, table
from llmops.feedback.writing import alone, writing
from llmops.rubric import Attributes, Rubric

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

AT_ONCE = 2_000
"""Items in one transaction: raters wait for no import."""


@dataclass(frozen=True, slots=True)
class CampaignState:
    """A campaign as a list shows it.

    Attributes:
        wanted: ratings it needs in all; `done` of them there are.
        raters: who have been given anything of it.
    """

    campaign: Campaign
    at: float
    items: int
    gold: int
    wanted: int
    done: int
    raters: int


def create_campaign(
    engine: Engine,
    campaign: Campaign,
    rubric: Rubric,
    *,
    at: float | None = None,
    also: Callable[[Connection], None] = lambda connection: None,
) -> None:
    """Begin a campaign, without items yet.

    Args:
        also: writes what belongs into the same transaction.

    Raises:
        InputError: its name is taken, or the rubric's scale is not of its kind.
    """
    from sqlalchemy.exc import IntegrityError

    check_scale(campaign, rubric)
    now = time.time() if at is None else at
    try:
        with writing(engine) as connection:
            connection.execute(
                table("campaigns").insert(),
                {"name": campaign.name, "at": now, "settings": campaign.model_dump_json(by_alias=True)},
            )
            _write_rubric(connection, campaign.name, 0, rubric, now)
            connection.execute(
                table("campaign_totals").insert(),
                {"campaign": campaign.name, "size": 0, "gold": 0, "wanted": 0, "languages": "[]"},
            )
            also(connection)
    except IntegrityError as error:
        raise InputError(
            f"there is a campaign {campaign.name!r} already", fix="give the campaign another `name`"
        ) from error


def check_scale(campaign: Campaign, rubric: Rubric) -> None:
    """Raises InputError where a campaign's kind cannot be answered on a rubric's scale.

    Which of two answers is better can be asked by any rubric: without a pairwise scale of its own, on the usual steps.
    """
    wanted = {"rating": ("likert", "attributes")}.get(campaign.kind)
    if wanted is not None and rubric.scale.kind not in wanted:
        raise InputError(
            f"the campaign {campaign.name!r} is of kind {campaign.kind}, the scale of rubric {rubric.name!r} is "
            f"{rubric.scale.kind}",
            fix=f"name a rubric with a scale of kind {' or '.join(wanted)}",
        )


def campaign_named(engine: Engine, name: str) -> Campaign:
    """Raises NotThere where there is none."""
    from sqlalchemy import select

    known = table("campaigns")
    with engine.connect() as connection:
        content = connection.execute(select(known.c.settings).where(known.c.name == name)).scalar()
        if content is None:
            names = connection.execute(select(known.c.name)).scalars().all()
            raise NotThere(
                f"there is no campaign {name!r}{nearest(name, names)}", fix="`llmops feedback list` names them"
            )
    return Campaign.model_validate_json(content)


def campaigns(engine: Engine) -> list[CampaignState]:
    """All of them, the newest first."""
    from sqlalchemy import func, select

    known, totals, raters = table("campaigns"), table("campaign_totals"), table("rater_totals")
    done = (
        select(
            raters.c.campaign,
            func.sum(raters.c.counted).label("done"),
            func.count().label("raters"),
        )
        .group_by(raters.c.campaign)
        .subquery()
    )
    wanted = (
        select(known, totals, done.c.done, done.c.raters)
        .join(totals, totals.c.campaign == known.c.name)
        .outerjoin(done, done.c.campaign == known.c.name)
        .order_by(known.c.at.desc(), known.c.name)
    )
    with engine.connect() as connection:
        return [
            CampaignState(
                Campaign.model_validate_json(row.settings),
                row.at,
                row.size,
                row.gold,
                row.wanted,
                int(row.done or 0),
                row.raters or 0,
            )
            for row in connection.execute(wanted)
        ]


# ── wording ────────────────────────────────────────────────────────────────────────────────────────────────────────


def reword(engine: Engine, campaign: str, rubric: Rubric, *, actor: str, at: float | None = None) -> bool:
    """Ask by another rubric from now on; whether it is another. What was said so far stays said of the old one.

    Raises:
        InputError: the words were changed without raising the version, or answers to the one would be no answers to the
            other: its scale has other steps or attributes.
    """
    from sqlalchemy import func, select

    now = time.time() if at is None else at
    check_scale(campaign_named(engine, campaign), rubric)
    kept = table("campaign_rubrics")
    with alone(engine, campaign) as connection:
        current = current_rubric(connection, campaign)
        if current.digest == rubric.digest:
            return False
        if _answers(current) != _answers(rubric):
            raise InputError(
                f"the scale of {rubric.name} version {rubric.version} is another than that of {current.name} version "
                f"{current.version}, by which {campaign!r} was rated",
                fix="begin another campaign with it",
            )
        if (current.name, current.version) == (rubric.name, rubric.version):
            raise InputError(
                f"the words of rubric {rubric.name!r} were changed, its version is still {rubric.version}",
                fix=f"set `version: {rubric.version + 1}`: answers to other words are other answers",
            )
        place = connection.execute(select(func.max(kept.c.place)).where(kept.c.campaign == campaign)).scalar_one()
        _write_rubric(connection, campaign, place + 1, rubric, now)
        write_event(
            connection, "reworded", campaign, at=now, campaign=campaign, actor=actor, detail=dict(rubric.identity)
        )
    return True


def _answers(rubric: Rubric) -> object:
    """What can be answered, whatever it is called: ratings by rubrics that differ here cannot be put together."""
    scale = rubric.scale
    if isinstance(scale, Attributes):
        return scale.answers, {name: one.good for name, one in scale.attributes.items()}
    return scale.kind, scale.steps


def rubrics(engine: Engine, campaign: str) -> list[Rubric]:
    """Each version a campaign has had, the newest last."""
    from sqlalchemy import select

    kept = table("campaign_rubrics")
    with engine.connect() as connection:
        found = connection.execute(select(kept.c.content).where(kept.c.campaign == campaign).order_by(kept.c.place))
        return [Rubric.model_validate_json(content) for content in found.scalars()]


def current_rubric(connection: Connection, campaign: str) -> Rubric:
    """What is asked now."""
    from sqlalchemy import select

    kept = table("campaign_rubrics")
    newest = select(kept.c.content).where(kept.c.campaign == campaign).order_by(kept.c.place.desc()).limit(1)
    return Rubric.model_validate_json(connection.execute(newest).scalar_one())


def _write_rubric(connection: Connection, campaign: str, place: int, rubric: Rubric, at: float) -> None:
    connection.execute(
        table("campaign_rubrics").insert(),
        {
            "campaign": campaign,
            "place": place,
            "at": at,
            "digest": rubric.digest,
            "content": rubric.model_dump_json(),
        },
    )


# ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_items(
    engine: Engine,
    campaign: str,
    items: Iterable[NewItem],
    *,
    at: float | None = None,
    after: int | None = None,
    on_added: Callable[[int], None] = lambda added: None,
) -> int:
    """Add items in the order they come, `AT_ONCE` of them in a transaction; returns how many.

    What is added stays where a later one fails; `count_items` says how many there are.

    Args:
        after: how many items the campaign has, and no more than these are added to; None: however many.
        on_added: hears how many are added so far, after each transaction.

    Raises:
        InputError: an item does not fit the campaign (number of responses, gold without an expected verdict), or
            somebody else added items since `after` was read.
    """
    settings = campaign_named(engine, campaign)
    rubric = rubrics(engine, campaign)[-1]
    now = time.time() if at is None else at
    coming, added = iter(items), 0
    while batch := list(islice(coming, AT_ONCE)):
        for one in batch:
            _check_item(settings, rubric, one)
        with writing(engine, campaign=campaign) as connection:
            _write_items(connection, settings, batch, now, None if after is None else after + added)
        added += len(batch)
        on_added(added)
    return added


def count_items(engine: Engine, campaign: str) -> int:
    """Items of any kind a campaign has."""
    from sqlalchemy import select

    totals = table("campaign_totals")
    with engine.connect() as connection:
        return connection.execute(select(totals.c.size).where(totals.c.campaign == campaign)).scalar() or 0


def _check_item(campaign: Campaign, rubric: Rubric, item: NewItem) -> None:
    most = {"pairwise": (2, 2), "rating": (1, 9), "ranking": (2, 9), "thumbs": (1, 1), "correction": (1, 1)}
    low, high = most[campaign.kind]
    if not low <= len(item.responses) <= high:
        raise InputError(
            f"an item of {campaign.kind} campaign {campaign.name!r} has {low if low == high else f'{low} to {high}'} "
            f"answers, one with {len(item.responses)} was given ({json.dumps(dict(item.source))[:200]})",
            fix="give each item as many answers",
        )
    if (item.kind == "gold") != (item.expected is not None):
        raise InputError(
            f"a gold item has an expected verdict, and no other has ({json.dumps(dict(item.source))[:200]})",
            fix="give `expected` with gold items alone",
        )
    if item.expected is not None and (problem := expected_fault(campaign, rubric, item.expected, len(item.responses))):
        raise InputError(
            f"the expected verdict of a gold item cannot be given: {problem}",
            fix="write it as a rater would give it, answers named by their place from 0",
        )
    if item.overlap is not None and item.overlap < 1:
        raise InputError(f"an item needs at least one rating, not {item.overlap}", fix="raise its overlap")


def _write_items(
    connection: Connection, campaign: Campaign, items: Sequence[NewItem], now: float, after: int | None
) -> None:
    from sqlalchemy import select, update

    totals = table("campaign_totals")
    of_campaign = totals.c.campaign == campaign.name
    state = connection.execute(select(totals).where(of_campaign).with_for_update()).one()
    if after is not None and state.size != after:
        raise InputError(
            f"somebody else puts items into campaign {campaign.name!r} at this moment",
            fix="wait until that is done, and run the command again",
        )
    languages = {str(one) for one in json.loads(state.languages)}
    rows: list[dict[str, Any]] = []
    responses: list[dict[str, Any]] = []
    openings: list[dict[str, Any]] = []
    for place, item in enumerate(items, start=state.size):
        name = uuid4().hex
        overlap = 0 if item.kind == "gold" else item.overlap or campaign.overlap
        rows.append(
            {
                "id": name,
                "campaign": campaign.name,
                "place": place,
                "kind": item.kind,
                "prompt": _json(list(item.prompt)),
                "prompt_digest": item.prompt_digest,
                "cluster": item.cluster,
                "source": _json(item.source),
                "probability": item.probability,
                "overlap": overlap,
                "priority": item.priority,
                "language": item.language,
                "tags": _json(list(item.tags)),
                "expected": None if item.expected is None else _json(full_verdict(item.expected)),
            }
        )
        responses += (
            {
                "item": name,
                "place": at,
                "text": storable(one.text),
                "model": None if one.model is None else storable(one.model),
                "detail": _json(one.detail),
            }
            for at, one in enumerate(item.responses)
        )
        if item.kind == "normal":
            openings.append(
                {
                    "item": name,
                    "campaign": campaign.name,
                    "free": overlap,
                    "rank": -item.priority,
                    "place": place,
                    "language": item.language or "",
                    "since": now,
                }
            )
            languages.add(item.language or "")
    connection.execute(table("rated_items").insert(), rows)
    connection.execute(table("rated_responses").insert(), responses)
    if openings:
        connection.execute(table("openings").insert(), openings)
    connection.execute(
        update(totals)
        .where(of_campaign)
        .values(
            size=state.size + len(items),
            gold=state.gold + len(items) - len(openings),
            wanted=state.wanted + sum(one["free"] for one in openings),
            languages=json.dumps(sorted(languages)),
        )
    )


def reopen(
    engine: Engine, campaign: str, items: Sequence[str], *, more: int = 1, actor: str, at: float | None = None
) -> None:
    """Ask for `more` ratings of each item than it needed so far, each by somebody who has not rated it.

    Raises:
        InputError: `more` is below 1.
        NotThere: one of them is no normal item of the campaign; nothing is re-opened then.
    """
    from sqlalchemy import update

    if more < 1:
        raise InputError(f"{more} more ratings cannot be asked for", fix="ask for 1 or more")
    now = time.time() if at is None else at
    openings, totals = table("openings"), table("campaign_totals")
    with writing(engine, campaign=campaign) as connection:
        for item in sorted(set(items)):
            changed = connection.execute(
                update(openings)
                .where(openings.c.item == item, openings.c.campaign == campaign)
                .values(free=openings.c.free + more, since=now)
            )
            if changed.rowcount != 1:
                raise NotThere(f"the campaign {campaign!r} has no item {item!r} to rate", fix="check the item's id")
            write_event(connection, "reopened", item, at=now, campaign=campaign, actor=actor, detail={"more": more})
        connection.execute(
            update(totals).where(totals.c.campaign == campaign).values(wanted=totals.c.wanted + more * len(set(items)))
        )


def _json(value: Mapping[str, Any] | list[Any]) -> str:
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=True)
