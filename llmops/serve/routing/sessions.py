"""Which conversations have gone up to the large model: they stay there, for a while, and never come down."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from llmops.serve.routing.body import opening

MOST = 50_000
"""Conversations remembered at a time, about 15 MB; the ones not heard of longest go first."""


def session_of(body: Mapping[str, Any], headers: Mapping[str, str], caller: str | None) -> str:
    """Digest of what keeps a conversation together: its `x-session-id`, or the messages it began with.

    A conversation is sent whole with every turn, so what stands before the first answer stays the same. The caller is
    part of the digest: what two callers call their session has nothing to do with each other.

    Args:
        headers: names in lower case.
        caller: id of the key.

    Returns:
        32 hexadecimal digits.
    """
    given = headers.get("x-session-id")
    kind, what = ("id", given) if given else ("opening", opening(body))
    sha = hashlib.blake2b(digest_size=16)
    # Lengths in between, so that no two triples are one text.
    for part in (kind, caller or "", what):
        content = part.encode("utf-8", "replace")
        sha.update(len(content).to_bytes(8, "big"))
        sha.update(content)
    return sha.hexdigest()


class Sessions:
    """The conversations that went up; bounded in number and in time.

    Times are seconds of any clock that does not go back, given by the caller.
    """

    def __init__(self, most: int = MOST) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._until)

    def raise_(self, session: str, *, now: float, seconds: float) -> None:
        """From now on `session` belongs to the large model, until it is not heard of for `seconds`."""
        self._until[session] = now + seconds
        self._until.move_to_end(session)
        if len(self._until) > self._most:
            self._until.popitem(last=False)

    def raised(self, session: str, *, now: float) -> bool:
        """Whether it went up and has not expired; one that has is forgotten."""
        until = self._until.get(session)
        if until is None:
            return False
        if until <= now:
            del self._until[session]
            return False
        return True
