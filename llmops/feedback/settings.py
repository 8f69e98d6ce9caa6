"""How the rating service runs, as users write it in configs/feedback.yaml: where, for whom, and how people sign in."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from llmops.config import Settings, refuse
from llmops.listening import Address, Listens, is_loopback

SECRET_LETTERS = 32
"""Characters a secret must have at least, outside loopback."""
_HTTP = r"^https?://[^\s@/?#]+$"


class OpenId(Settings):
    """An OpenID provider that vouches for people, such as the company's single sign-on."""

    issuer: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
    """Its address, as its tokens name it; https, unless it is on this machine."""
    client_id: Annotated[str, Field(min_length=1)]
    """What it calls this service."""
    client_secret: Annotated[str, Field(min_length=1)]
    """What it knows this service by; write ${NAME} and keep it in the environment."""
    name: Annotated[str, Field(min_length=1, max_length=60)] = "single sign-on"
    """What the button says after `Sign in with`."""
    allowed_domains: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")], ...] = ()
    """Domains of verified e-mail addresses whose people need no invitation: they may rate in every campaign. Without
    any, only those come in who were invited."""
    private_network: bool = False
    """It may be at an address of this network (10.0.0.0/8 and the like), which is refused otherwise."""


class Sessions(Settings):
    """How long one stays signed in."""

    idle_hours: PositiveFloat = 12.0
    """Hours without a request after which one signs in again; ratings not yet sent wait in the browser."""
    longest_hours: PositiveFloat = 336.0
    """Hours after which one signs in again in any case."""


class Limits(Settings):
    """What one request, and one address, may take."""

    body_kb: PositiveFloat = 4000.0
    """Largest body of a request; a rating with nine rewritten answers of 100,000 letters needs most of it."""
    body_s: PositiveFloat = 30.0
    """Seconds within which a body must have come."""
    attempts: PositiveInt = 10
    """Wrong passwords for one login in `attempts_s` seconds; five times as many wrong passwords and links from one
    address, which an office may share."""
    attempts_s: PositiveFloat = 300.0
    """Seconds over which they are counted."""


class FeedbackService(Listens):
    """The rating service."""

    listen: Address = "127.0.0.1:8400"
    """Address and port. One that others reach needs a `secret` and a `public_url`; port 0 takes a free one."""
    public_url: Annotated[str, Field(pattern=_HTTP)] | None = None
    """What people type to reach it, such as https://ratings.example.org; requests for another host are refused. Null
    where only this machine reaches it."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (10.0.0.5, 10.0.0.0/24) of the proxy that ends TLS; what it says of the client's address in
    X-Forwarded-For is believed. https needs one."""
    secret: str | None = None
    """Signs forms and sign-ins; at least 32 random letters, such as `openssl rand -hex 32` prints. Without one, a new
    one is made at each start, which only a service of this machine alone may do."""
    openid: OpenId | None = None
    """Who vouches for people; null: they have passwords."""
    invitation_hours: PositiveFloat = 72.0
    """Hours an invitation can be used."""
    sessions: Sessions = Sessions()
    """How long one stays signed in."""
    limits: Limits = Limits()
    """What one request, and one address, may take."""

    @field_validator("secret")
    @classmethod
    def _empty_is_none(cls, secret: str | None) -> str | None:
        return secret or None

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        for one in named:
            try:
                ipaddress.ip_network(one)
            except ValueError as error:
                raise ValueError(f"{one!r} is no address or network: {error}") from error
        return named

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems: dict[str, str] = {}
        if self.secret is not None and (len(self.secret) < SECRET_LETTERS or len(set(self.secret)) < 10):
            problems["secret"] = f"give at least {SECRET_LETTERS} random letters, such as `openssl rand -hex 32` prints"
        if not self.loopback:
            lacking = [name for name in ("secret", "public_url") if getattr(self, name) is None]
            if lacking:
                said = " and ".join(f"`{name}`" for name in lacking)
                problems["listen"] = f"others can reach it: give {said}, or listen on 127.0.0.1"
        if self.public_url is not None:
            if self.https and not self.trusted_proxies:
                problems["public_url"] = "https is ended by a proxy before this service: name it in `trusted_proxies`"
            if not self.https and not is_loopback(urlsplit(self.public_url).hostname or ""):
                problems["public_url"] = "passwords and sessions would cross the network in clear: use https"
        if self.openid is not None:
            issuer = urlsplit(self.openid.issuer)
            if issuer.scheme != "https" and not is_loopback(issuer.hostname or ""):
                problems["openid.issuer"] = "it must be https, unless it is on this machine"
        refuse(problems)
        return self

    @property
    def https(self) -> bool:
        """People reach it through https."""
        return self.public_url is not None and self.public_url.startswith("https://")
