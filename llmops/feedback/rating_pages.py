"""The routes of the rating page, over a desk that hands out tasks and takes ratings.

What the page's scripts rely on (JSON unless said otherwise; every POST carries the header `x-csrf-token`, whose value
stands in the page's `<meta name="csrf">`; who checks it is the application around these routes):

    GET  /                                   a rater's campaigns (HTML)
    GET  /rate/{campaign}                    the rating page, with the task, or why there is none, in it (HTML)
    POST /api/campaigns/{campaign}/next      the task this rater holds, or a new one:
                                             {"state": "task", "assignment", "until", "html"}, or
                                             {"state": "taken", "free_in", "html"} and so with the other `Waiting`
    POST /api/campaigns/{campaign}/ahead     the one after that, the same; {"state": "nothing"…} where there is none
    GET  /api/campaigns/{campaign}/previous?before={assignment}
                                             what this rater rated before it, or last; 404 where there is none
    GET  /api/assignments/{assignment}       a task of this rater again, with what they said of it
    POST /api/assignments/{assignment}/extend    {"until", "now"}
    POST /api/assignments/{assignment}/release   {}
    POST /api/ratings                        a `Given` → {"id", "again", "surplus", "expected_html"}; with
                                             `?accept_old=1` as an answer to the words the rater saw, though changed
    GET  /api/campaigns/{campaign}/progress  {"wanted", "done", "mine", "gold": [agreed, of] | null, "median_s"}

A refusal is {"error", "fix", "kind"}: 401 `login` (the page keeps all it has not sent, and offers to log in); 403
`csrf` (the page fetches a new token and tries again) or `forbidden`; 404; 409 `rubric` with `old_html`, `new_html` and
`rubric`, the new digest (nothing was stored: the rater sends it again with `accept_old`, or rates again), or `conflict`
with `newest`, the rating that stands (the rater may replace it); 422 what is no rating. What is refused stays in the
rater's browser and is shown there; after anything else (429, 5xx, silence) it is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import ValidationError

from llmops.errors import InputError, LlmopsError
from llmops.feedback import pages
from llmops.feedback.faults import Conflict, NotThere, RubricChanged
from llmops.feedback.pages import Offered, Visitor
from llmops.feedback.tasks import NoTask, Progress, Stored, Task
from llmops.feedback.verdicts import Given

Who = Callable[[Request], Visitor | None]
_STORING = 8
"""Threads for ratings alone: what somebody has done waits for none of those who ask for something to do."""
_FAULTS = (NotThere, Conflict, RubricChanged, InputError)


class Desk(Protocol):
    """Where tasks come from and ratings go, for one rater at a time; all of them may raise what `faults` lists."""

    def next(self, campaign: str, rater: str) -> Task | NoTask: ...
    def ahead(self, campaign: str, rater: str) -> Task | NoTask: ...
    def task(self, assignment: str, rater: str) -> Task: ...
    def previous(self, campaign: str, rater: str, before: str | None = None) -> Task | None: ...
    def extend(self, assignment: str, rater: str) -> float: ...
    def release(self, assignment: str, rater: str) -> None: ...
    def submit(self, given: Given, rater: str, *, accept_old: bool = False) -> Stored: ...
    def progress(self, campaign: str, rater: str) -> Progress: ...


def rating_routes(
    desk: Desk, who: Who, campaigns: Callable[[str], Sequence[Offered]], *, login: str = "/login"
) -> APIRouter:
    """The routes. `who` gives a request's rater, or None without a session; `campaigns` what a rater may rate;
    `login` is where the page sends a rater whose session has ended, with `?next=` and the way back."""
    router = APIRouter()
    storing = CapacityLimiter(_STORING)

    def asked(work: Callable[[Visitor], dict[str, Any]], request: Request) -> Response:
        visitor = who(request)
        if visitor is None:
            return JSONResponse({"error": "the session has ended", "fix": "log in again", "kind": "login"}, 401)
        try:
            return JSONResponse(work(visitor))
        except _FAULTS as fault:
            return JSONResponse(_refusal(fault), _status(fault))

    def shown(work: Callable[[Visitor], str], request: Request) -> Response:
        visitor = who(request)
        if visitor is None:
            return RedirectResponse(f"{login}?next={quote(request.url.path)}", 303)
        try:
            return HTMLResponse(work(visitor))
        except _FAULTS as fault:
            return HTMLResponse(pages.error_page(visitor, fault.problem, fault.fix), _status(fault))

    @router.get("/")
    def start(request: Request) -> Response:
        return shown(lambda visitor: pages.start_page(visitor, campaigns(visitor.id), login=login), request)

    @router.get("/rate/{campaign}")
    def rate(request: Request, campaign: str) -> Response:
        def page(visitor: Visitor) -> str:
            held = desk.next(campaign, visitor.id)
            return pages.rate_page(visitor, campaign, held, desk.progress(campaign, visitor.id), login=login)

        return shown(page, request)

    @router.post("/api/campaigns/{campaign}/next")
    def next_(request: Request, campaign: str) -> Response:
        return asked(lambda visitor: _held(desk.next(campaign, visitor.id), campaign), request)

    @router.post("/api/campaigns/{campaign}/ahead")
    def ahead(request: Request, campaign: str) -> Response:
        return asked(lambda visitor: _held(desk.ahead(campaign, visitor.id), campaign), request)

    @router.get("/api/campaigns/{campaign}/previous")
    def previous(request: Request, campaign: str, before: str | None = None) -> Response:
        def one_before(visitor: Visitor) -> dict[str, Any]:
            found = desk.previous(campaign, visitor.id, before)
            if found is None:
                raise NotThere("there is none before this one", fix="go on with this one")
            return _held(found, campaign)

        return asked(one_before, request)

    @router.get("/api/campaigns/{campaign}/progress")
    def progress(request: Request, campaign: str) -> Response:
        return asked(lambda visitor: asdict(desk.progress(campaign, visitor.id)), request)

    @router.get("/api/assignments/{assignment}")
    def task(request: Request, assignment: str) -> Response:
        def again(visitor: Visitor) -> dict[str, Any]:
            found = desk.task(assignment, visitor.id)
            return _held(found, found.campaign)

        return asked(again, request)

    @router.post("/api/assignments/{assignment}/extend")
    def extend(request: Request, assignment: str) -> Response:
        # A browser's clock may be wrong, so the page is told what the time is.
        return asked(lambda visitor: {"until": desk.extend(assignment, visitor.id), "now": time.time()}, request)

    @router.post("/api/assignments/{assignment}/release")
    def release(request: Request, assignment: str) -> Response:
        def given_back(visitor: Visitor) -> dict[str, Any]:
            desk.release(assignment, visitor.id)
            return {}

        return asked(given_back, request)

    @router.post("/api/ratings")
    async def ratings(request: Request, accept_old: bool = False) -> Response:
        body = await request.body()

        def stored(visitor: Visitor) -> dict[str, Any]:
            given = _given(body)
            kept = desk.submit(given, visitor.id, accept_old=accept_old)
            told = kept.expected and pages.expected_html(desk.task(given.assignment, visitor.id), kept.expected)
            return {"id": kept.id, "again": kept.again, "surplus": kept.surplus, "expected_html": told}

        return await to_thread.run_sync(asked, stored, request, limiter=storing)

    return router


def _given(body: bytes) -> Given:
    try:
        return Given.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"this is no rating: {place}: {first['msg']}", fix="rate again") from error


def _held(held: Task | NoTask, campaign: str) -> dict[str, Any]:
    if isinstance(held, NoTask):
        return {"state": held.why, "free_in": held.free_in, "html": pages.waiting_html(held, campaign)}
    return {"state": "task", "assignment": held.assignment, "until": held.until, "html": pages.task_html(held)}


def _status(fault: LlmopsError) -> int:
    return 404 if isinstance(fault, NotThere) else 422 if isinstance(fault, InputError) else 409


def _refusal(fault: LlmopsError) -> dict[str, Any]:
    said: dict[str, Any] = {"error": fault.problem, "fix": fault.fix}
    if isinstance(fault, RubricChanged):
        said["old_html"] = pages.rubric_html(fault.seen)
        said["new_html"] = pages.rubric_html(fault.current)
        return {**said, "kind": "rubric", "rubric": fault.current.digest}
    if isinstance(fault, Conflict):
        return {**said, "kind": "conflict", "newest": fault.newest}
    return {**said, "kind": "unknown" if isinstance(fault, NotThere) else "invalid"}
