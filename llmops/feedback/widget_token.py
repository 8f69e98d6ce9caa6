"""Tokens of the thumbs widget: the site that shows an answer vouches that its visitor may say what they think of it.

The embedding site's server holds its campaign's key (`llmops feedback widget-key CAMPAIGN`) and makes one token for
each answer it shows, with `token_for` or in any language as

    until = seconds since 1970 at which the token ends, a whole number
    token = campaign + "." + until + "." + hex(HMAC-SHA256(key, campaign + "\\n" + request + "\\n" + until))

The key is made of the service's secret and the campaign's name; who holds it can speak for that campaign alone.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart; nothing of it is believed before `vouched` says so. `until` in seconds since 1970."""

    campaign: str
    until: int
    mac: str


def widget_key(secret: str, campaign: str) -> str:
    """The key of a campaign, 64 hexadecimal digits."""
    return hmac.new(secret.encode(), f"llmops thumbs widget 1\n{campaign}".encode(), hashlib.sha256).hexdigest()


def token_for(key: str, campaign: str, request: str, *, until: float) -> str:
    """The token for the answer to one request, good until then.

    Args:
        key: the campaign's, as `widget_key` gives it.
        request: the id that the gateway sent with the answer (`x-request-id`).
    """
    return f"{campaign}.{int(until)}.{_mac(key, campaign, request, int(until))}"


def parted(token: str) -> Token | None:
    """What a token says of itself; None where it is none."""
    campaign, _, rest = token.rpartition(".")[0].rpartition(".")
    mac = token.rpartition(".")[2]
    if not campaign or not rest.isascii() or not rest.isdigit() or len(rest) > 15 or not mac.isascii():
        return None
    return Token(campaign, int(rest), mac)


def vouched(token: Token, key: str, request: str, *, now: float) -> bool:
    """Whether the token was made with this key for this request, and has not ended."""
    right = _mac(key, token.campaign, request, token.until)
    return hmac.compare_digest(right.encode(), token.mac.encode()) and now < token.until


def _mac(key: str, campaign: str, request: str, until: int) -> str:
    said = f"{campaign}\n{request}\n{until}"
    return hmac.new(key.encode(), said.encode(), hashlib.sha256).hexdigest()
