"""Signing in and out, invitations and what people change of their own account: pages that need no script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from llmops.errors import InputError
from llmops.feedback.accounts import Accounts, plain_login
from llmops.feedback.cookies import Cookies
from llmops.feedback.invitations import Invitation, Invitations
from llmops.feedback.rates import Attempts, network_of
from llmops.feedback.refused import Refused, signed_out
from llmops.feedback.sessions import SignedIn
from llmops.feedback.settings import FeedbackService
from llmops.feedback.visitor import Visitor

Render = Callable[..., str]
"""A template's name, who sees it, and its values → HTML."""

HOME = "/"


@dataclass(frozen=True, slots=True)
class Entrance:
    """All that letting people in needs."""

    service: FeedbackService
    accounts: Accounts
    invitations: Invitations
    sessions: SignedIn
    cookies: Cookies
    by_address: Attempts
    by_login: Attempts
    render: Render


def visitor_of(request: Request) -> Visitor | None:
    """Who asks, as the door found out."""
    found: Visitor | None = request.state.visitor
    return found


def signed_in(request: Request) -> Visitor:
    """
    Raises:
        Refused: 401.
    """
    found = visitor_of(request)
    if found is None:
        raise signed_out()
    return found


def field(request: Request, name: str) -> str:
    """One field of the form; empty where it was not sent."""
    return "".join(request.state.form.get(name, [])[:1])


def fields(request: Request, name: str) -> list[str]:
    """All values of one field."""
    return list(request.state.form.get(name, []))


def way_back(asked: str) -> str:
    """The path to go on to, where it is one of this service; the first page otherwise."""
    if not asked.startswith("/") or asked.startswith("//") or "\\" in asked or not asked.isprintable():
        return HOME
    return asked


def without_session(path: str) -> bool:
    """Whether those who are not signed in may send a form there."""
    return path == "/login" or path.startswith("/invitation/")


def entrance_routes(entrance: Entrance) -> APIRouter:
    """Sign in, sign out, accept an invitation."""
    router = APIRouter()
    here = entrance

    @router.get("/login")
    def login_page(request: Request) -> Response:
        after = way_back(request.query_params.get("next", HOME))
        if visitor_of(request) is not None:
            return RedirectResponse(after, 303)
        return _form(here, request, "login.html", status=200, after=after, typed="", problem="")

    @router.post("/login")
    def log_in(request: Request) -> Response:
        login, after = plain_login(field(request, "login"))[:200], way_back(field(request, "next"))
        by_address, by_login = network_of(request.state.address), login
        limited(here.by_address, by_address)
        limited(here.by_login, by_login)
        rater = here.accounts.check(login, field(request, "password"))
        if rater is None:
            problem = "The login or the password is wrong."
            return _form(here, request, "login.html", status=401, after=after, typed=login, problem=problem)
        here.by_address.forgive(by_address)
        here.by_login.forgive(by_login)
        return let_in(here, request, rater, after)

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        here.sessions.end(signed_in(request).session)
        response = RedirectResponse("/login", 303)
        here.cookies.drop(response, here.cookies.session)
        return response

    @router.get("/invitation/{secret}")
    def invitation_page(request: Request, secret: str) -> Response:
        return _invitation_form(here, request, secret, _found(here, request, secret), status=200)

    @router.post("/invitation/{secret}")
    def accept(request: Request, secret: str) -> Response:
        found = _found(here, request, secret)
        password = field(request, "password")
        try:
            if password != field(request, "again"):
                raise InputError("the two passwords differ", fix="write the same one twice")
            if found.rater is not None:
                rater = here.invitations.accept_password(secret, password=password)
            else:
                rater = here.invitations.accept(
                    secret, login=field(request, "login"), name=field(request, "name"), password=password
                )
        except InputError as error:
            return _invitation_form(here, request, secret, found, status=422, error=error)
        return let_in(here, request, rater, HOME)

    return router


def account_routes(entrance: Entrance) -> APIRouter:
    """What people see and change of themselves."""
    router = APIRouter()
    here = entrance

    def page(visitor: Visitor, *, status: int = 200, problem: str = "", done: str = "") -> Response:
        person = here.accounts.person(visitor.rater)
        sessions = here.sessions.of(visitor.rater)
        return HTMLResponse(
            here.render("account.html", visitor, person=person, sessions=sessions, problem=problem, done=done), status
        )

    @router.get("/account")
    def account(request: Request) -> Response:
        return page(signed_in(request))

    @router.post("/account/password")
    def password(request: Request) -> Response:
        visitor = signed_in(request)
        limited(here.by_login, visitor.login)
        if here.accounts.check(visitor.login, field(request, "current")) != visitor.rater:
            return page(visitor, status=422, problem="The present password is another.")
        here.by_login.forgive(visitor.login)
        new = field(request, "password")
        if new != field(request, "again"):
            return page(visitor, status=422, problem="The two new passwords differ.")
        try:
            here.accounts.set_password(visitor.rater, new, by=visitor.rater)
        except InputError as error:
            return page(visitor, status=422, problem=f"{error.problem}: {error.fix}")
        return let_in(here, request, visitor.rater, "/account")

    @router.post("/account/sessions")
    def sessions(request: Request) -> Response:
        visitor = signed_in(request)
        here.sessions.end_others(visitor)
        return page(visitor, done="All other sessions have ended.")

    return router


def let_in(entrance: Entrance, request: Request, rater: str, after: str) -> Response:
    """Begin a session under a new secret, whatever the browser had before, and go on."""
    had = request.cookies.get(entrance.cookies.session)
    secret = entrance.sessions.begin(rater, instead=had)
    response = RedirectResponse(after, 303)
    entrance.cookies.set_session(response, secret, seconds=entrance.sessions.longest_s)
    return response


def address(service: FeedbackService, port: int) -> str:
    """Where people reach the service, without a slash at the end."""
    host = f"[{service.host}]" if ":" in service.host else service.host
    return service.public_url or f"http://{host}:{port}"


def link_to(service: FeedbackService, port: int, secret: str) -> str:
    """The address that an invitation's secret is sent in."""
    return f"{address(service, port)}/invitation/{quote(secret)}"


def _found(entrance: Entrance, request: Request, secret: str) -> Invitation:
    """The invitation; wrong ones count against the address, so that nobody tries many."""
    address = network_of(request.state.address)
    limited(entrance.by_address, address)
    found = entrance.invitations.find(secret)
    entrance.by_address.forgive(address)
    return found


def limited(attempts: Attempts, key: str) -> None:
    """Count an attempt.

    Raises:
        Refused: 429, there were too many.
    """
    wait = attempts.wait(key)
    if wait is not None:
        raise Refused(429, "too many attempts", fix=f"wait {max(1, round(wait))} seconds", retry_after=wait)


def _invitation_form(
    entrance: Entrance,
    request: Request,
    secret: str,
    found: Invitation,
    *,
    status: int,
    error: InputError | None = None,
) -> Response:
    whose = entrance.accounts.person(found.rater) if found.rater is not None else None
    return _form(
        entrance,
        request,
        "invitation.html",
        status=status,
        found=found,
        secret=secret,
        whose=whose,
        typed=whose.login if whose else field(request, "login"),
        name=whose.name if whose else field(request, "name"),
        problem=f"{error.problem}: {error.fix}." if error else "",
    )


def _form(entrance: Entrance, request: Request, template: str, *, status: int, **values: object) -> Response:
    """A form for somebody who may not be signed in, with its token."""
    visitor, fresh = visitor_of(request), list[str]()
    token = visitor.csrf if visitor is not None else entrance.cookies.form_token(request, fresh.append)
    openid = entrance.service.openid.name if entrance.service.openid is not None else ""
    page = entrance.render(template, visitor, token=token, openid=openid, **values)
    response = HTMLResponse(page, status)
    for value in fresh:
        entrance.cookies.set_form(response, value)
    return response
