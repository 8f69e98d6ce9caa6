"""The pages of a campaign's owner: how it stands, what raters disagree on; pausing raters, re-opening items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from markupsafe import Markup

from llmops.errors import InputError
from llmops.feedback.campaign_report import report_on
from llmops.feedback.dashboard import Section, address, sections
from llmops.feedback.disagreements import MOST, page_of
from llmops.feedback.entrance import Render, field, signed_in
from llmops.feedback.kept_reports import KeptReports
from llmops.feedback.raters import pause, rater_states, resume
from llmops.feedback.refused import not_yours
from llmops.feedback.report_json import to_json
from llmops.feedback.store import reopen, rubrics
from llmops.feedback.visitor import Visitor

if TYPE_CHECKING:
    from sqlalchemy import Engine

MOST_REOPENED = 9
"""More ratings of an item that can be asked for at once."""
_REASON = "the owner's page"


def owner_routes(engine: Engine, render: Render, *, clock: Callable[[], float]) -> APIRouter:
    """
    GET  /campaigns/{campaign}                          how it stands (HTML)
    GET  /api/campaigns/{campaign}/report               the same numbers (JSON)
    GET  /campaigns/{campaign}/disagreements?page=1     items raters disagree on (HTML)
    POST /campaigns/{campaign}/raters/{rater}/pause     and /resume
    POST /campaigns/{campaign}/items/{item}/reopen      `more` ratings of it; back to `page`

    All of them are for the campaign's owner and for admins; the application around them checks sessions and tokens.
    """
    router = APIRouter()
    kept = KeptReports(lambda name: report_on(engine, name, now=clock(), disagreements=MOST), clock=clock)

    def owner(request: Request, campaign: str) -> Visitor:
        visitor = signed_in(request)
        visitor.must_own(campaign)
        return visitor

    @router.get("/campaigns/{campaign}")
    async def dashboard(request: Request, campaign: str) -> Response:
        visitor = owner(request, campaign)
        report = await kept.of(campaign)

        def page() -> str:
            states = rater_states(engine, campaign)
            return render(
                "campaign.html",
                visitor,
                campaign=campaign,
                question=rubrics(engine, campaign)[-1].question,
                kind=report.kind,
                at=datetime.fromtimestamp(report.at, UTC),
                address=address(campaign),
                sections=_marked(sections(report, states, csrf=visitor.csrf)),
            )

        return HTMLResponse(await run_in_threadpool(page))

    @router.get("/api/campaigns/{campaign}/report")
    async def numbers(request: Request, campaign: str) -> Response:
        owner(request, campaign)
        report = await kept.of(campaign)
        return JSONResponse(await run_in_threadpool(to_json, report))

    @router.get("/campaigns/{campaign}/disagreements")
    async def disagreements(request: Request, campaign: str, page: int = 1, more: int = 0, item: str = "") -> Response:
        visitor = owner(request, campaign)
        report = await kept.of(campaign)

        def shown() -> str:
            return render(
                "disagreements.html",
                visitor,
                campaign=campaign,
                address=address(campaign),
                page=page_of(engine, report, page),
                most=MOST_REOPENED,
                reopened=item,
                more=more,
            )

        return HTMLResponse(await run_in_threadpool(shown))

    def switched(request: Request, campaign: str, rater: str, change: Callable[..., None]) -> Response:
        visitor = owner(request, campaign)
        if rater not in {one.rater for one in rater_states(engine, campaign)}:
            raise not_yours()
        change(engine, campaign, rater, actor=visitor.rater, reason=_REASON, at=clock())
        return RedirectResponse(f"{address(campaign)}#raters", 303)

    @router.post("/campaigns/{campaign}/raters/{rater}/pause")
    def stop(request: Request, campaign: str, rater: str) -> Response:
        return switched(request, campaign, rater, pause)

    @router.post("/campaigns/{campaign}/raters/{rater}/resume")
    def go_on(request: Request, campaign: str, rater: str) -> Response:
        return switched(request, campaign, rater, resume)

    @router.post("/campaigns/{campaign}/items/{item}/reopen")
    def ask_again(request: Request, campaign: str, item: str) -> Response:
        visitor = owner(request, campaign)
        more, page = _number(field(request, "more")), _number(field(request, "page"), most=None)
        reopen(engine, campaign, [item], more=more, actor=visitor.rater, at=clock())
        kept.outdated(campaign)
        back = urlencode({"page": page, "more": more, "item": item})
        return RedirectResponse(f"{address(campaign, 'disagreements')}?{back}#item-{item}", 303)

    return router


def _marked(found: Sequence[Section]) -> list[dict[str, Any]]:
    """Sections for the templates, whose kind of markup is another."""
    return [{"name": one.name, "heading": one.heading, "body": Markup(one.body)} for one in found]


def _number(given: str, *, most: int | None = MOST_REOPENED) -> int:
    """
    Raises:
        InputError: it is no whole number from 1 to `most`.
    """
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 7 else 0
    if number < 1 or (most is not None and number > most):
        raise InputError(f"this takes a number from 1 to {most or 'that of the last page'}", fix="go back and give one")
    return number
