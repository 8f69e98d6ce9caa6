"""Answers to requests that say temperature 0, held in memory for those who ask exactly the same again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.serve.settings import Cache
from llmops.serve.usage import Usage

LARGEST = 256 * 1024
"""Bytes of an answer beyond which it is not held."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as the client got it."""

    body: bytes
    content_type: bytes
    usage: Usage
    engine: str
    version: str


def key_of(
    endpoint: str, body: Mapping[str, Any], *, version: str, digest: str | None, caller: str | None
) -> bytes | None:
    """What equal requests have in common; None for one that may be answered otherwise the next time.

    Args:
        version, digest: of the model that answers: a new one answers anew.
        caller: the key that may see the answer; None where everybody may.
    """
    temperature = body.get("temperature")
    if isinstance(temperature, bool) or temperature != 0:
        return None
    try:
        said = orjson.dumps([endpoint, version, digest, caller, body], option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None
    return hashlib.sha256(said).digest()


class AnswerCache:
    """The answers of one route; those that were not asked for longest go first."""

    def __init__(self, settings: Cache) -> None:
        self.settings = settings
        self._kept: OrderedDict[bytes, tuple[float, Kept]] = OrderedDict()

    def get(self, key: bytes, now: float) -> Kept | None:
        """`now` and that of `put`: seconds of one monotonic clock."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, kept = found
        if now >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, key: bytes, kept: Kept, now: float) -> None:
        if len(kept.body) > LARGEST:
            return
        self._kept[key] = now + self.settings.seconds, kept
        self._kept.move_to_end(key)
        if len(self._kept) > self.settings.entries:
            self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)
