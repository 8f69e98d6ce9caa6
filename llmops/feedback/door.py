"""The door of the rating service: every request passes it, and every answer.

In: the host is ours, the body is bounded, the session is looked up, a change carries its token and comes from a page of
ours. Out: headers that let browsers do as little as the pages need. A route that forgets to check is still behind it.
"""

from __future__ import annotations

import hmac
import traceback
from collections.abc import Callable, Collection

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from starlette.datastructures import Headers, MutableHeaders

from llmops.errors import LlmopsError
from llmops.feedback.cookies import Cookies
from llmops.feedback.refused import Refused, signed_out
from llmops.feedback.request_limits import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    body_of,
    check_host,
    check_origin,
    client_address,
    form_of,
)
from llmops.feedback.sessions import SignedIn
from llmops.feedback.settings import FeedbackService
from llmops.feedback.visitor import Visitor

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
PROBES = frozenset({"/health", "/ready"})
"""What watches the service asks by whatever name it likes; nothing is told there."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: browsers then send `Origin: null` with forms, which says nothing of where they come from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()",
    "cache-control": "no-store",
}
_LOOKING = 4
"""Threads in which sessions are looked up: they are there when all others wait for their turn to write."""
_HTTPS = {"strict-transport-security": "max-age=31536000"}


def headers_of(service: FeedbackService) -> dict[str, str]:
    """What every answer says to browsers."""
    return {**HEADERS, **(_HTTPS if service.https else {})}


class Door:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: App,
        *,
        service: FeedbackService,
        known: Collection[str],
        sessions: SignedIn,
        cookies: Cookies,
        shown: Callable[[Request, LlmopsError], Response],
        tell: Callable[[str], None],
        without_session: Callable[[str], bool],
        elsewhere: Collection[str] = (),
    ) -> None:
        """
        Args:
            known: the service's own origins.
            shown: an error as a page or as JSON.
            tell: hears of faults of ours, with their traceback.
            without_session: whether a path takes changes from those who are not signed in.
            elsewhere: beginnings of paths that pages of other sites may call; their routes check by whom, and see no
                session.
        """
        self._app = app
        self._service = service
        self._known = known
        self._sessions = sessions
        self._cookies = cookies
        self._shown = shown
        self._tell = tell
        self._without_session = without_session
        self._elsewhere = tuple(elsewhere)
        self._looking = CapacityLimiter(_LOOKING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def out(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in headers_of(self._service).items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        state = scope.setdefault("state", {})
        state |= {"visitor": None, "form": {}, "address": ""}
        try:
            body = await self._enter(request, scope, receive)
            await self._app(scope, _again(body, receive), out)
        except LlmopsError as error:
            await self._say(request, error, begun, receive, out)
        except Exception as error:
            self._tell(f"{request.method} failed: {''.join(traceback.format_exception(error))}")
            fault = Refused(500, "this went wrong, and the fault is the service's", fix="try it again in a while")
            await self._say(request, fault, begun, receive, out)

    async def _say(self, request: Request, error: LlmopsError, begun: bool, receive: Receive, out: Send) -> None:
        if begun:
            raise error
        await self._shown(request, error)(request.scope, receive, out)

    async def _enter(self, request: Request, scope: Scope, receive: Receive) -> bytes:
        """Check the request; its body.

        Raises:
            Refused: it may not come in.
        """
        headers, path, state = Headers(scope=scope), scope["path"], scope["state"]
        if path in PROBES and request.method in SAFE:
            return b""
        check_host(headers.get("host", ""), self._known)
        peer = request.client.host if request.client else ""
        forwarded = ",".join(headers.getlist("x-forwarded-for"))
        state["address"] = client_address(peer, forwarded, self._service.trusted_proxies)
        limits = self._service.limits
        open_to_others = path.startswith(self._elsewhere) if self._elsewhere else False
        change = request.method not in SAFE
        if change and not open_to_others:
            check_origin(headers, self._known)
        secret = request.cookies.get(self._cookies.session, "")
        if secret and not open_to_others:
            state["visitor"] = await to_thread.run_sync(self._sessions.visitor, secret, limiter=self._looking)
        if not change:
            return b""
        # Who is not let in needs no large body.
        least = 64_000
        known = open_to_others or state["visitor"] is not None
        longest = int(limits.body_kb * 1000) if known else min(least, int(limits.body_kb * 1000))
        body = await body_of(receive, headers, longest=longest, seconds=limits.body_s)
        if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            state["form"] = form_of(body)
        if not open_to_others:
            self._check_token(request, state["visitor"], path)
        return body

    def _check_token(self, request: Request, visitor: Visitor | None, path: str) -> None:
        given = request.headers.get("x-csrf-token") or "".join(request.state.form.get("csrf", [])[:1])
        stale = Refused(403, "this page is too old to do that", fix="open it again and repeat it", kind="csrf")
        if visitor is not None:
            if not hmac.compare_digest(visitor.csrf.encode(), given.encode()):
                raise stale
        elif not self._without_session(path):
            raise signed_out()
        elif not self._cookies.fits_form(request.cookies.get(self._cookies.form, ""), given):
            raise stale


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read already, then what the connection says."""
    told = False

    async def again() -> Message:
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again
