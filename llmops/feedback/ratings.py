"""What stands of what people said, read as a stream in the order of items: for exports, dashboards and agreement.

Of an assignment's ratings the newest stands. Ratings of people who asked for theirs to be dropped are not read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from llmops.feedback.items import Item, Rated, Rating, Response
from llmops.feedback.tables import table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select
    from sqlalchemy.engine import Row

_AT_ONCE = 500


def ratings(engine: Engine, campaign: str, *, rater: str | None = None, item: str | None = None) -> Iterator[Rating]:
    """All that stand in a campaign, by item in the order items came in, then by time; gold, repeated and surplus ones
    are among them, and marked.

    Args:
        rater, item: only this one's.
    """
    with engine.connect() as connection:
        yield from _ratings(connection, campaign, rater=rater, item=item)


def rated(engine: Engine, campaign: str) -> Iterator[Rated]:
    """Each item that was given a rating, with all that stand of it, in the order items came in."""
    with engine.connect() as connection:
        by_item = groupby(_ratings(connection, campaign), key=lambda one: one.item)
        together = ((item, tuple(group)) for item, group in by_item)
        while batch := dict(islice(together, _AT_ONCE)):
            known = {one.id: one for one in _items(connection, tuple(batch))}
            for item, said in batch.items():
                yield Rated(known[item], said)


def items(engine: Engine, campaign: str) -> Iterator[Item]:
    """All of a campaign's items, rated or not, in the order they came in."""
    from sqlalchemy import select

    kept = table("rated_items")
    last = -1
    with engine.connect() as connection:
        while True:
            batch = (
                select(kept.c.id)
                .where(kept.c.campaign == campaign, kept.c.place > last)
                .order_by(kept.c.place)
                .limit(_AT_ONCE)
            )
            found = _items(connection, connection.execute(batch).scalars().all())
            if not found:
                return
            yield from found
            last = found[-1].place


def prompts(engine: Engine, campaign: str) -> Iterator[tuple[Sequence[Mapping[str, Any]], str]]:
    """Each prompt that a campaign asks about, with its cluster, in the order they came in; gold items have none."""
    from sqlalchemy import select

    kept = table("rated_items")
    wanted = (
        select(kept.c.prompt, kept.c.cluster)
        .where(kept.c.campaign == campaign, kept.c.kind == "normal")
        .order_by(kept.c.place)
    )
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=_AT_ONCE).execute(wanted):
            yield json.loads(row.prompt), row.cluster


def item_named(engine: Engine, item: str) -> Item | None:
    """One item; None where there is none."""
    with engine.connect() as connection:
        return next(iter(_items(connection, [item])), None)


def replaced(engine: Engine, campaign: str) -> Iterator[tuple[str, str]]:
    """`(rating, item)` of all that a later rating of the same assignment replaced."""
    from sqlalchemy import select

    kept = table("ratings")
    later = kept.alias("later")
    wanted = (
        select(kept.c.id, kept.c.item)
        .where(kept.c.campaign == campaign, ~kept.c.rater.in_(select(_dropped())))
        .where(select(later.c.id).where(later.c.supersedes == kept.c.id).exists())
        .order_by(kept.c.at, kept.c.id)
    )
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=_AT_ONCE).execute(wanted):
            yield row.id, row.item


def history(engine: Engine, assignment: str) -> list[Rating]:
    """Everything that was said on one assignment, the first first: what was replaced as well."""
    from sqlalchemy import select

    kept = table("ratings")
    wanted = (
        _columns().where(kept.c.assignment == assignment, ~kept.c.rater.in_(select(_dropped()))).order_by(kept.c.at)
    )
    with engine.connect() as connection:
        return [_rating(row) for row in connection.execute(wanted)]


def _ratings(
    connection: Connection, campaign: str, *, rater: str | None = None, item: str | None = None
) -> Iterator[Rating]:
    from sqlalchemy import select

    kept, known = table("ratings"), table("rated_items")
    later = kept.alias("later")
    wanted = (
        _columns()
        .where(kept.c.campaign == campaign)
        .where(~select(later.c.id).where(later.c.supersedes == kept.c.id).exists())
        .where(~kept.c.rater.in_(select(_dropped())))
        .order_by(known.c.place, kept.c.at, kept.c.id)
    )
    if rater is not None:
        wanted = wanted.where(kept.c.rater == rater)
    if item is not None:
        wanted = wanted.where(kept.c.item == item)
    for row in connection.execution_options(yield_per=_AT_ONCE).execute(wanted):
        yield _rating(row)


def _columns() -> Select[Any]:
    from sqlalchemy import func, select

    kept, given, known = table("ratings"), table("assignments"), table("rated_items")
    earlier = kept.alias("earlier")
    first = select(func.min(earlier.c.at)).where(earlier.c.assignment == kept.c.assignment).scalar_subquery()
    return (
        select(kept, given.c.kind, given.c.round, given.c.shown, known.c.place, first.label("first_at"))
        .join(given, given.c.id == kept.c.assignment)
        .join(known, known.c.id == kept.c.item)
    )


def _dropped() -> Any:
    from sqlalchemy import select

    happened = table("rating_events")
    return select(happened.c.subject).where(happened.c.campaign.is_(None), happened.c.kind == "dropped").subquery()


def _rating(row: Row[Any]) -> Rating:
    return Rating(
        id=row.id,
        assignment=row.assignment,
        item=row.item,
        place=row.place,
        rater=row.rater,
        at=row.at,
        first_at=row.first_at,
        rubric=row.rubric,
        said=row.said,
        content=json.loads(row.content),
        kind=row.kind,
        round=row.round,
        shown=_order(row.shown),
        surplus=bool(row.surplus),
    )


@lru_cache(10_000)
def _order(shown: str) -> tuple[int, ...]:
    """Places out of JSON; most campaigns have two orders."""
    return tuple(json.loads(shown))


def _items(connection: Connection, names: Sequence[str]) -> list[Item]:
    """Items with their responses, by place."""
    from sqlalchemy import select

    kept, answers = table("rated_items"), table("rated_responses")
    responses: dict[str, list[Response]] = defaultdict(list)
    for row in connection.execute(
        select(answers).where(answers.c.item.in_(names)).order_by(answers.c.item, answers.c.place)
    ):
        responses[row.item].append(Response(row.text, row.model, json.loads(row.detail)))
    return [
        Item(
            id=row.id,
            campaign=row.campaign,
            place=row.place,
            kind=row.kind,
            prompt=tuple(json.loads(row.prompt)),
            prompt_digest=row.prompt_digest,
            cluster=row.cluster,
            source=json.loads(row.source),
            probability=row.probability,
            overlap=row.overlap,
            priority=row.priority,
            language=row.language,
            tags=tuple(json.loads(row.tags)),
            expected=None if row.expected is None else json.loads(row.expected),
            responses=tuple(responses[row.id]),
        )
        for row in connection.execute(select(kept).where(kept.c.id.in_(names)).order_by(kept.c.place))
    ]
