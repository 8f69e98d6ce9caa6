"""The way to an OpenID provider and back: whom it vouches for comes in if invited, or if their domain is allowed."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from llmops.errors import InputError
from llmops.feedback.accounts import check_login, check_name
from llmops.feedback.entrance import HOME, Entrance, let_in, limited, way_back
from llmops.feedback.openid import Identity, Provider
from llmops.feedback.rates import network_of
from llmops.feedback.refused import Refused

BACK = "/openid/callback"


def openid_routes(entrance: Entrance, provider: Provider, *, origin: str) -> APIRouter:
    """
    Args:
        origin: of this service, as the provider knows it.
    """
    router = APIRouter()
    here, back = entrance, f"{origin}{BACK}"

    async def away(request: Request, kept: dict[str, str]) -> Response:
        # Each asks somebody else's server: not as often as one likes.
        limited(here.by_address, network_of(request.state.address))
        if "invitation" in kept:
            await run_in_threadpool(here.invitations.find, kept["invitation"])
        to, trip = await provider.begin(back)
        response = RedirectResponse(to, 303)
        here.cookies.set_trip(response, {**trip, **kept})
        return response

    @router.get("/openid")
    async def begin(request: Request) -> Response:
        return await away(request, {"after": way_back(request.query_params.get("next", HOME))})

    @router.get("/invitation/{secret}/openid")
    async def accept(request: Request, secret: str) -> Response:
        return await away(request, {"after": HOME, "invitation": secret})

    @router.get(BACK)
    async def finish(request: Request) -> Response:
        trip = here.cookies.trip_of(request)
        if trip is None:
            raise Refused(400, "this sign-in was not begun here, or took too long", fix="begin again", kind="openid")
        identity = await provider.finish(request.query_params, trip, back=back)
        rater = await run_in_threadpool(_account, here, identity, trip.get("invitation"))
        response = await run_in_threadpool(let_in, here, request, rater, way_back(str(trip.get("after", HOME))))
        here.cookies.drop(response, here.cookies.trip)
        here.by_address.forgive(network_of(request.state.address))
        return response

    return router


def _account(entrance: Entrance, identity: Identity, invitation: str | None) -> str:
    """The pseudonym of whom a provider vouches for.

    Raises:
        Refused: 403, nobody invited them; 404, their invitation cannot be used.
    """
    known = entrance.accounts.vouched(identity.subject)
    if known is not None:
        return known
    if invitation is not None:
        for login in _logins(identity):
            try:
                return entrance.invitations.accept_vouched(
                    invitation, login=login, name=_name(identity), subject=identity.subject
                )
            except InputError:
                continue
    elif _allowed(entrance, identity):
        for login in _logins(identity):
            rater = entrance.accounts.admit(login=login, name=_name(identity), subject=identity.subject)
            if rater is not None:
                return rater
        known = entrance.accounts.vouched(identity.subject)  # made meanwhile, by the same person in another tab
        if known is not None:
            return known
    raise Refused(403, "nobody has invited you, or your account is closed", fix="ask an admin of this service")


def _allowed(entrance: Entrance, identity: Identity) -> bool:
    openid = entrance.service.openid
    name, at, domain = (identity.email or "").rpartition("@")
    return openid is not None and bool(name and at) and domain in openid.allowed_domains


def _logins(identity: Identity) -> list[str]:
    """What the account may be called: the verified address, unless somebody is called so; then a name of its own.

    An account with a password that has the address as its login is never taken over.
    """
    own = f"openid-{hashlib.sha256(identity.subject.encode()).hexdigest()[:16]}"
    try:
        return [check_login(identity.email or ""), own]
    except InputError:
        return [own]


def _name(identity: Identity) -> str:
    try:
        return check_name(identity.name)
    except InputError:
        return "somebody"
