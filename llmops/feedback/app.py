"""The rating service as one FastAPI application, out of parts that are passed in."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.exceptions import HTTPException

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.feedback.accounts import Accounts
from llmops.feedback.cookies import Cookies
from llmops.feedback.door import SAFE, Door, headers_of
from llmops.feedback.entrance import (
    Entrance,
    Render,
    account_routes,
    address,
    entrance_routes,
    visitor_of,
    without_session,
)
from llmops.feedback.faults import NotThere
from llmops.feedback.invitations import Invitations
from llmops.feedback.openid import Provider
from llmops.feedback.openid_pages import openid_routes
from llmops.feedback.people_pages import people_routes
from llmops.feedback.rates import Attempts
from llmops.feedback.refused import Refused
from llmops.feedback.request_limits import origins
from llmops.feedback.sessions import SignedIn
from llmops.feedback.settings import FeedbackService
from llmops.feedback.static import Static

ADDRESS = 5
"""Times as many wrong attempts may come from one address as for one login: offices share one."""


def entrance_of(service: FeedbackService, accounts: Accounts, *, render: Render) -> Entrance:
    """The parts that let people in, over the accounts in a database."""
    limits, clock = service.limits, accounts.clock
    _ = accounts.passwords.nobody
    key = (service.secret or secrets.token_hex(32)).encode()
    return Entrance(
        service=service,
        accounts=accounts,
        invitations=Invitations(accounts, hours=service.invitation_hours, clock=clock),
        sessions=SignedIn(accounts.engine, service.sessions, clock=clock),
        cookies=Cookies(key, https=service.https, clock=clock),
        by_address=Attempts(ADDRESS * limits.attempts, limits.attempts_s),
        by_login=Attempts(limits.attempts, limits.attempts_s),
        render=render,
    )


def application(
    entrance: Entrance,
    *,
    port: int,
    openid: Provider | None = None,
    routers: Sequence[APIRouter] = (),
    ready: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
    elsewhere: Collection[str] = (),
) -> FastAPI:
    """The service.

    Args:
        port: where it listens.
        openid: who vouches for people; None where nobody does.
        routers: the pages and interfaces of other parts; the door is in front of them too.
        ready: raises LlmopsError where the service cannot work at the moment.
        tell: hears of faults of ours.
        elsewhere: beginnings of paths that pages of other sites may call (the widget); see `Door`.
    """
    app = FastAPI(title="llmops feedback", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    @app.get("/health")
    def health() -> Response:
        return PlainTextResponse("alive\n")

    @app.get("/ready")
    def is_ready() -> Response:
        try:
            ready()
        except LlmopsError:
            return PlainTextResponse("not ready\n", 503)
        return PlainTextResponse("ready\n")

    app.include_router(entrance_routes(entrance))
    app.include_router(account_routes(entrance))
    app.include_router(people_routes(entrance, port=port))
    if openid is not None:
        app.include_router(openid_routes(entrance, openid, origin=address(entrance.service, port)))
    for router in routers:
        app.include_router(router)

    def shown(request: Request, error: LlmopsError) -> Response:
        return _shown(entrance.render, request, error)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, LlmopsError)
        return shown(request, error)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return shown(request, _of_status(error.status_code))

    async def no_such_request(request: Request, error: Exception) -> Response:
        return shown(request, _of_status(422))

    app.add_exception_handler(LlmopsError, refused)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(RequestValidationError, no_such_request)
    door: Any = Door
    app.add_middleware(
        door,
        service=entrance.service,
        known=origins(entrance.service, port),
        sessions=entrance.sessions,
        cookies=entrance.cookies,
        shown=shown,
        tell=tell,
        without_session=without_session,
        elsewhere=elsewhere,
    )
    static: Any = Static
    app.add_middleware(static, headers=headers_of(entrance.service))
    return app


def _of_status(status: int) -> Refused:
    match status:
        case 404:
            return Refused(404, "there is nothing here", fix="go to the first page")
        case 405:
            return Refused(405, "this cannot be done here", fix="go to the first page")
        case _:
            return Refused(status, "this is no request of this service's pages", fix="open the page again")


def _status(error: LlmopsError) -> int:
    if isinstance(error, Refused):
        return error.status
    known = {NotThere: 404, InputError: 422, EnvironmentFault: 503}
    return next((status for kind, status in known.items() if isinstance(error, kind)), 409)


def _shown(render: Render, request: Request, error: LlmopsError) -> Response:
    """An error as what was asked for: a page for people, JSON for scripts. Nothing of the request is in it."""
    status = _status(error)
    problem, fix, kind = error.problem, error.fix, getattr(error, "kind", "invalid")
    if isinstance(error, EnvironmentFault):  # what it says of the machine is for who runs it
        problem, fix, kind = "the service cannot do this at the moment", "try it again in a while", "later"
    wait = getattr(error, "retry_after", None) or (5 if status == 503 else None)
    headers = {"retry-after": str(math.ceil(wait))} if wait else {}
    people = "text/html" in request.headers.get("accept", "")
    if not people:
        return JSONResponse({"error": problem, "fix": fix, "kind": kind}, status, headers)
    if kind == "login" and request.method in SAFE:
        return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)
    try:
        visitor = visitor_of(request)
    except AttributeError:
        visitor = None
    page = render("error.html", visitor, problem=problem, fix=fix)
    return HTMLResponse(page, status, headers)
