"""The cookies of the rating service, what signs them, and the tokens of forms shown to those not signed in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response

_FORM_S = 12 * 3600
_TRIP_S = 600


class Cookies:
    """Names and attributes: through https they carry `__Host-`, so that no other host of the domain can set them."""

    def __init__(self, key: bytes, *, https: bool, clock: Callable[[], float]) -> None:
        self._key = key
        self._https = https
        self._clock = clock
        prefix = "__Host-" if https else ""
        self.session = f"{prefix}llmops-session"
        self.form = f"{prefix}llmops-form"
        self.trip = f"{prefix}llmops-openid"

    def set_session(self, response: Response, secret: str, *, seconds: float) -> None:
        self._set(response, self.session, secret, int(seconds))
        self.drop(response, self.form)

    def drop(self, response: Response, name: str) -> None:
        response.delete_cookie(name, path="/", secure=self._https, httponly=True, samesite="lax")

    def form_token(self, request: Request, response_cookie: Callable[[str], None]) -> str:
        """The token for a form shown to somebody who is not signed in; bound to a cookie, which is made when missing.

        Args:
            response_cookie: is given the cookie's value where it has to be set.
        """
        kept = request.cookies.get(self.form, "")
        if not 20 <= len(kept) <= 100:
            kept = secrets.token_urlsafe(32)
            response_cookie(kept)
        return self.token_of(kept)

    def set_form(self, response: Response, value: str) -> None:
        self._set(response, self.form, value, _FORM_S)

    def token_of(self, form_cookie: str) -> str:
        """What a form must carry whose browser holds this cookie."""
        return self._signature("form", form_cookie)

    def fits_form(self, form_cookie: str, token: str) -> bool:
        return bool(form_cookie) and hmac.compare_digest(self.token_of(form_cookie).encode(), token.encode())

    def set_trip(self, response: Response, trip: Mapping[str, Any]) -> None:
        """Keep, in the browser, what is needed when it comes back from the OpenID provider."""
        text = json.dumps({**trip, "until": self._clock() + _TRIP_S})
        plain = base64.urlsafe_b64encode(text.encode()).decode()
        self._set(response, self.trip, f"{plain}.{self._signature('openid', plain)}", _TRIP_S)

    def trip_of(self, request: Request) -> dict[str, Any] | None:
        """What was kept; None where nothing was, or it is over, or not ours."""
        plain, _, signature = request.cookies.get(self.trip, "").partition(".")
        if not plain or not hmac.compare_digest(self._signature("openid", plain).encode(), signature.encode()):
            return None
        trip: dict[str, Any] = json.loads(base64.urlsafe_b64decode(plain))
        return trip if trip["until"] > self._clock() else None

    def _signature(self, what: str, text: str) -> str:
        return hmac.new(self._key, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(name, value, max_age=seconds, path="/", secure=self._https, httponly=True, samesite="lax")
