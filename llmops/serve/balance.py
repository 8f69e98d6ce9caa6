"""Which replica of an engine gets a request: the one that has seen its beginning, unless it has too much to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from llmops.serve.targets import Target

BOUND = 1.25
"""A replica is given at most this many times the mean load before the next in line is taken.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016, arXiv:1608.01350)."""

_PREFIX = 4096


def chosen(targets: Sequence[Target], key: Callable[[], bytes | None]) -> Target:
    """One of `targets`, of which there is at least one.

    Args:
        key: what requests of one conversation, or with one beginning, have in common: they go to the same replica as
            long as it is not overloaded, where their prefix is cached. With None the least loaded one is taken.
    """
    if len(targets) == 1:
        return targets[0]
    together = key()
    if together is None:
        return min(targets, key=lambda one: (one.replica.in_flight, one.replica.number))
    under_way = sum(one.replica.in_flight for one in targets)
    most = math.ceil(BOUND * (under_way + 1) / len(targets))
    with_room = [one for one in targets if one.replica.in_flight < most]
    # The highest of one hash for each replica: when a replica comes or goes, only its own requests move.
    return max(with_room, key=lambda one: blake2b(b"%d %b" % (one.replica.number, together), digest_size=8).digest())


def beginning_of(body: Mapping[str, Any]) -> bytes | None:
    """What a request has in common with those that continue its conversation: all up to the first thing the user says.

    None for a request without text.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        said = body.get("prompt", body.get("input"))
        return _bytes(said) if said else None
    first: list[Any] = []
    for message in messages:
        first.append(message)
        if isinstance(message, Mapping) and message.get("role") == "user":
            break
    return _bytes(first)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value[:_PREFIX].encode()
    try:
        return orjson.dumps(value)[:_PREFIX]
    except orjson.JSONEncodeError:
        return b"deep"
