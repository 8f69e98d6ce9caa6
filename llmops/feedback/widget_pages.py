"""The thumbs widget's script, and where it sends what visitors of other sites said; no session is read here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.feedback.faults import NotThere
from llmops.feedback.rates import Attempts, network_of
from llmops.feedback.refused import Refused
from llmops.feedback.static import static_files
from llmops.feedback.store import campaign_named, campaigns
from llmops.feedback.widget_token import parted, vouched, widget_key

if TYPE_CHECKING:
    from sqlalchemy import Engine

ELSEWHERE = "/widget/"
"""The beginning of its paths, which pages of other sites may call."""
_LONGEST = 16_000
"""Bytes of a body."""
_MOST, _SECONDS = 60, 300.0
"""Thumbs from one network in so many seconds."""
_PREFLIGHT_S = 600


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    request: Annotated[str, Field(min_length=1, max_length=128)]
    token: Annotated[str, Field(max_length=400)]
    thumbs: Literal["up", "down"]
    comment: Annotated[str, Field(max_length=2000)] = ""


@dataclass(frozen=True, slots=True)
class Thumb:
    """What a visitor said of one answer; `by` is the token's digest, the same for all that is said with it."""

    campaign: str
    request: str
    up: bool
    comment: str
    by: str
    at: float


Keep = Callable[[Thumb], None]
"""Stores a thumb beside those that `/v1/feedback` took; the same twice is stored once, another one of the same `by`
corrects the one before."""


def widget_routes(engine: Engine, secret: str, keep: Keep, *, clock: Callable[[], float]) -> APIRouter:
    """
    GET      /widget/thumbs.js   the custom element `<llmops-thumbs>`
    OPTIONS  /widget/thumbs      whether a site may send
    POST     /widget/thumbs      {"request", "token", "thumbs": "up" | "down", "comment"} → {}

    Args:
        secret: the service's.
    """
    router = APIRouter()
    often = Attempts(_MOST, _SECONDS)

    @router.get("/widget/thumbs.js")
    def script() -> Response:
        content, kind = static_files()["thumbs.js"]
        # A module that a page of another site loads has to be open to it; there is nothing secret in it.
        headers = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
        return Response(content, media_type=kind, headers=headers)

    @router.options("/widget/thumbs")
    def may_send(request: Request) -> Response:
        origin = request.headers.get("origin", "")
        if not any(origin in one.campaign.widget_origins for one in campaigns(engine)):
            raise _not_from_there()
        allowed = {"access-control-allow-methods": "POST", "access-control-allow-headers": "content-type"}
        return Response(None, 204, {**_open_to(origin), **allowed, "access-control-max-age": str(_PREFLIGHT_S)})

    def taken(origin: str, network: str, body: bytes) -> Response:
        wait = often.wait(network)
        if wait is not None:
            raise Refused(429, "too many thumbs", fix=f"wait {max(1, round(wait))} seconds", retry_after=wait)
        if len(body) > _LONGEST:
            raise Refused(413, "this is too long", fix=f"send at most {_LONGEST} bytes")
        try:
            said = _Said.model_validate_json(body)
        except ValidationError as error:
            raise Refused(422, "this is no thumb", fix="send request, token and thumbs: up or down") from error
        token, now = parted(said.token), clock()
        if token is None or not vouched(token, widget_key(secret, token.campaign), said.request, now=now):
            raise Refused(403, "the token is not for this answer, or has ended", fix="load the page again")
        try:
            campaign = campaign_named(engine, token.campaign)
        except NotThere as error:
            raise _not_from_there() from error
        if campaign.kind != "thumbs" or origin not in campaign.widget_origins:
            raise _not_from_there()
        keep(Thumb(campaign.name, said.request, said.thumbs == "up", said.comment, token.mac, now))
        return JSONResponse({}, headers=_open_to(origin))

    @router.post("/widget/thumbs")
    async def thumb(request: Request) -> Response:
        body, origin = await request.body(), request.headers.get("origin", "")
        return await run_in_threadpool(taken, origin, network_of(request.state.address), body)

    return router


def _open_to(origin: str) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "vary": "origin",
        "cross-origin-resource-policy": "cross-origin",
    }


def _not_from_there() -> Refused:
    return Refused(403, "this site may not send thumbs", fix="name it in the campaign's `widget_origins`")
