"""Shares of the traffic chosen by hash: the same one always falls on the same side, and none falls back as a share
grows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from llmops.serve.settings import Rollout, Shadow


def place_of(purpose: str, who: str) -> float:
    """Where `who` stands between 0 and 1 for one purpose: evenly spread, and independent of other purposes.

    The first 53 bits of BLAKE2b, so that every value is exact and below 1.
    """
    sha = hashlib.blake2b(who.encode("utf-8", "replace"), digest_size=8, key=_key(purpose))
    return float(int.from_bytes(sha.digest(), "big") >> 11) / 2**53


def chosen(purpose: str, who: str, share: float) -> bool:
    """Whether `who` is among the `share` (0 to 1) of all: with probability exactly `share` over all who might ask,
    and still so for every larger share."""
    return place_of(purpose, who) < share


def side_of(
    rollout: Rollout, route: str, *, caller: str | None, body: Mapping[str, Any], session: str
) -> Literal["a", "b"]:
    """The side of a rollout: `b` gets the other version.

    What the route says is sticky but the request does not have (no key, no user) is made up for by the session. The
    engine that traffic goes to is part of the purpose: the next rollout begins with others.
    """
    who = f"session {session}"
    if rollout.sticky == "key" and caller is not None:
        who = f"key {caller}"
    elif rollout.sticky == "user" and (user := user_of(body)) is not None:
        who = f"user {user}"
    return "b" if chosen(f"rollout {route} {rollout.engine} {rollout.to}", who, rollout.share) else "a"


def shadowed(shadow: Shadow, route: str, request: str) -> bool:
    """Whether a copy of the request goes to the shadow's engine.

    Args:
        request: what tells one request from others, such as its id.
    """
    return chosen(f"shadow {route} {shadow.to}", request, shadow.share)


def user_of(body: Mapping[str, Any]) -> str | None:
    """Who the client says is asking; OpenAI's `user` or `safety_identifier`, or Anthropic's `metadata.user_id`."""
    metadata = body.get("metadata")
    inner = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    for given in (body.get("user"), body.get("safety_identifier"), inner):
        if isinstance(given, str) and given:
            return given
    return None


def _key(purpose: str) -> bytes:
    """At most 64 bytes, as BLAKE2b takes them."""
    return hashlib.blake2b(purpose.encode("utf-8", "replace"), digest_size=32).digest()
