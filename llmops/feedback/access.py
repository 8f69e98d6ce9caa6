"""Campaigns are there for their members alone: in front of all routes that name one, or a task of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from llmops.feedback.entrance import visitor_of
from llmops.feedback.refused import not_yours
from llmops.feedback.tables import table

if TYPE_CHECKING:
    from sqlalchemy import Engine


def members_only(engine: Engine) -> Callable[[Request], Awaitable[None]]:
    """A dependency for routers: `{campaign}` and `{assignment}` in a path are somebody's own, or not there.

    Who is not signed in is left to the route. A rating that arrives is not refused here: it was made while its rater
    was a member, and none is lost.
    """

    async def check(request: Request) -> None:  # only where the database is asked does a thread have to be found
        visitor = visitor_of(request)
        if visitor is None:
            return
        asked = request.path_params
        if "campaign" in asked:
            visitor.must_know(asked["campaign"])
        if "assignment" in asked:
            campaign = await run_in_threadpool(_campaign_of, engine, asked["assignment"], visitor.rater)
            if campaign is None:
                raise not_yours()
            visitor.must_know(campaign)

    return check


def _campaign_of(engine: Engine, assignment: str, rater: str) -> str | None:
    from sqlalchemy import select

    given = table("assignments")
    with engine.connect() as connection:
        return connection.execute(
            select(given.c.campaign).where(given.c.id == assignment, given.c.rater == rater)
        ).scalar_one_or_none()
