"""What admins do with accounts, and whom admins and owners invite."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from llmops.errors import InputError
from llmops.feedback.entrance import Entrance, field, link_to, signed_in
from llmops.feedback.raters import change_rater
from llmops.feedback.refused import forbidden, not_yours
from llmops.feedback.visitor import EVERY, ROLES, Role, Visitor


def people_routes(entrance: Entrance, *, port: int) -> APIRouter:
    """
    Args:
        port: where the service listens, for the links it shows.
    """
    router = APIRouter()
    here = entrance

    def admin(request: Request) -> Visitor:
        visitor = signed_in(request)
        visitor.must_be("admin")
        return visitor

    def people(visitor: Visitor, *, status: int = 200, problem: str = "", link: str = "") -> Response:
        everybody = here.accounts.people()
        return HTMLResponse(
            here.render("people.html", visitor, people=everybody, roles=ROLES, problem=problem, link=link), status
        )

    def invitations(visitor: Visitor, *, status: int = 200, problem: str = "", link: str = "") -> Response:
        found = here.invitations.open(by=None if visitor.role == "admin" else visitor.rater)
        roles = ROLES if visitor.role == "admin" else ("rater",)
        hours = here.service.invitation_hours
        return HTMLResponse(
            here.render("invitations.html", visitor, found=found, roles=roles, hours=hours, problem=problem, link=link),
            status,
        )

    @router.get("/people")
    def everybody(request: Request) -> Response:
        return people(admin(request))

    @router.post("/people/{rater}/role")
    def role(request: Request, rater: str) -> Response:
        visitor = admin(request)
        return _done(
            lambda: here.accounts.set_role(rater, _role(field(request, "role")), by=visitor.rater), people, visitor
        )

    @router.post("/people/{rater}/campaigns")
    def campaigns(request: Request, rater: str) -> Response:
        visitor = admin(request)
        names = words(field(request, "campaigns"))

        def change() -> None:
            here.accounts.person(rater)
            here.accounts.set_campaigns(rater, names, by=visitor.rater)

        return _done(change, people, visitor)

    @router.post("/people/{rater}/skills")
    def skills(request: Request, rater: str) -> Response:
        visitor = admin(request)

        def change() -> None:
            change_rater(
                here.accounts.engine,
                here.accounts.person(rater).rater,
                languages=words(field(request, "languages")),
                qualifications=words(field(request, "qualifications")),
                actor=visitor.rater,
                at=here.accounts.clock(),
            )

        return _done(change, people, visitor)

    @router.post("/people/{rater}/close")
    def close(request: Request, rater: str) -> Response:
        visitor = admin(request)
        return _done(lambda: here.accounts.close(rater, by=visitor.rater), people, visitor)

    @router.post("/people/{rater}/open")
    def open_again(request: Request, rater: str) -> Response:
        visitor = admin(request)
        return _done(lambda: here.accounts.open_again(rater, by=visitor.rater), people, visitor)

    @router.post("/people/{rater}/password")
    def password(request: Request, rater: str) -> Response:
        visitor = admin(request)
        try:
            secret = here.invitations.reset(here.accounts.person(rater), by=visitor.rater)
        except InputError as error:
            return people(visitor, status=422, problem=f"{error.problem}: {error.fix}")
        return people(visitor, link=link_to(here.service, port, secret))

    @router.get("/invitations")
    def invited(request: Request) -> Response:
        visitor = signed_in(request)
        visitor.must_be("admin", "owner")
        return invitations(visitor)

    @router.post("/invitations")
    def invite(request: Request) -> Response:
        visitor = signed_in(request)
        visitor.must_be("admin", "owner")
        asked = words(field(request, "campaigns"))
        try:
            wanted = _role(field(request, "role"))
            _may_invite(visitor, wanted, asked)
            secret = here.invitations.make(
                wanted,
                by=visitor.rater,
                campaigns=asked,
                languages=words(field(request, "languages")),
                qualifications=words(field(request, "qualifications")),
            )
        except InputError as error:
            return invitations(visitor, status=422, problem=f"{error.problem}: {error.fix}")
        return invitations(visitor, link=link_to(here.service, port, secret))

    @router.post("/invitations/{which}/withdraw")
    def withdraw(request: Request, which: str) -> Response:
        visitor = signed_in(request)
        visitor.must_be("admin", "owner")
        here.invitations.withdraw(which, by=None if visitor.role == "admin" else visitor.rater)
        return RedirectResponse("/invitations", 303)

    return router


def words(text: str) -> list[str]:
    """Names with commas between them; `*` is every campaign."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _may_invite(visitor: Visitor, role: Role, campaigns: list[str]) -> None:
    """
    Raises:
        Refused: an owner invites raters, to campaigns of their own.
    """
    if visitor.role == "admin":
        return
    if role != "rater":
        raise forbidden()
    if not campaigns:
        raise InputError("no campaign is named", fix="name those that they shall rate in")
    for name in campaigns:
        if name == EVERY and EVERY not in visitor.campaigns:
            raise not_yours()
        visitor.must_own(name)


def _role(name: str) -> Role:
    for role in ROLES:
        if role == name:
            return role
    raise InputError("there is no such role", fix=f"choose one of: {', '.join(ROLES)}")


def _done(change: Callable[[], None], page: Callable[..., Response], visitor: Visitor) -> Response:
    try:
        change()
    except InputError as error:
        return page(visitor, status=422, problem=f"{error.problem}: {error.fix}")
    return RedirectResponse("/people", 303)
