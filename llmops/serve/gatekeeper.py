"""Lets in who has a valid key, to the routes and as far as the limits of that key allow."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmops.errors import LlmopsError
from llmops.serve.hooks import Caller
from llmops.serve.keys import Key, digest, id_in, read, utc
from llmops.serve.ledger_usage import month
from llmops.serve.limits import Allowance, Spending
from llmops.serve.refusal import Refusal

LOOK_EVERY_S = 0.5
_NOBODY = bytes(32)


@dataclass(slots=True)
class KeyHolder:
    """A caller with a key.

    Attributes:
        digest: of the secret.
        allowance: what it took lately; stays when the file changes.
    """

    key: Key
    id: str
    tags: tuple[str, ...]
    digest: bytes = field(repr=False)
    allowance: Allowance


@dataclass(slots=True)
class Held:
    """What one request took of its key's limits; `settle` at its end corrects it."""

    holder: KeyHolder
    spending: Spending
    tokens: int
    slot: int
    at: float
    monotonic: Callable[[], float]
    settled: bool = False

    def settle(self, tokens: int | None, usd: float | None) -> None:
        """It took `tokens`, and cost so much; None where nobody knows: then what was reserved stays taken."""
        if self.settled:
            return
        self.settled = True
        if tokens is not None:
            self.holder.allowance.settle(self.tokens, tokens, self.slot, self.monotonic())
        if usd:
            self.spending.add(self.holder.id, usd, self.at)


class KeyFile:
    """The gatekeeper of a gateway with keys. The file is read again within a second of a change.

    A file that cannot be read changes nothing: the keys stay as they were and `problem` says why.

    Attributes:
        file: the keys.
    """

    def __init__(
        self,
        file: Path,
        spending: Spending,
        *,
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read `file`.

        Args:
            spending: what keys have spent this month.
            tell: hears of a file that cannot be read, and of one that was read again.
            clock: Unix time, for ends and months; `monotonic` seconds that never go back, for rates.

        Raises:
            LlmopsError: it cannot be read at the start.
        """
        self.file = file
        self._spending = spending
        self._tell = tell
        self._clock = clock
        self._monotonic = monotonic
        self._holders: dict[str, KeyHolder] = {}
        self.problem: str | None = None
        self._seen = self._mark()
        self._take(read(file))
        self._look_at = monotonic() + LOOK_EVERY_S

    def who(self, secret: str | None) -> Caller:
        """The caller whose secret this is.

        Raises:
            Refusal: 401; it is missing, unknown, revoked or expired.
        """
        self._look()
        if not secret:
            raise Refusal(
                401, "a key is needed: send it as `Authorization: Bearer sk-llmops-…`", code="invalid_api_key"
            )
        holder = self._holders.get(id_in(secret))
        # An id that nobody has is compared, too, so that the time says nothing about which ids there are.
        same = hmac.compare_digest(digest(secret), _NOBODY if holder is None else holder.digest)
        if holder is None or not same:
            raise Refusal(401, "there is no such key", code="invalid_api_key")
        if ended := holder.key.ended(utc(self._clock())):
            raise Refusal(401, f"the key {holder.id} is {ended}; ask for a new one", code="invalid_api_key")
        return holder

    def may(self, caller: Caller, route: str) -> bool:
        """The caller's key allows this route."""
        routes = _held_by(caller).key.routes
        return routes is None or route in routes

    def reserve(self, caller: Caller, tokens: int) -> Held:
        """Let one request in that will take about so many tokens.

        Requests under way are not yet spent: a budget may be overdrawn by what they cost.

        Raises:
            Refusal: 429 with the exact time after which it fits, if nothing else comes; 413 where it never will.
        """
        holder, at, now = _held_by(caller), self._clock(), self._monotonic()
        budget = holder.key.budget_usd
        if budget is not None and (spent := self._spending.of(holder.id, at)) >= budget:
            raise Refusal(
                429,
                f"the key {holder.id} has spent {spent:.2f} of the {budget:g} US dollars it has in a month",
                code="insufficient_quota",
                kind="insufficient_quota",
                retry_after=month(at)[1] - at,
            )
        allowance = holder.allowance
        for rate, amount, what in ((allowance.requests, 1, "requests"), (allowance.tokens, tokens, "tokens")):
            if rate is None or (wait := rate.wait(amount, now)) == 0.0:
                continue
            if wait is None:
                raise Refusal(
                    413,
                    f"the request may take {amount} {what}; the key {holder.id} has {rate.most} a minute",
                    code="rate_limit_exceeded",
                    kind=what,
                )
            raise Refusal(
                429,
                f"the key {holder.id} has {rate.most} {what} a minute; this one fits in {wait:.2f} s",
                code="rate_limit_exceeded",
                kind=what,
                retry_after=wait,
            )
        return Held(holder, self._spending, tokens, allowance.reserve(tokens, now), at, self._monotonic)

    def _look(self) -> None:
        now = self._monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        if (mark := self._mark()) == self._seen:
            return
        self._seen = mark
        try:
            self._take(read(self.file))
        except LlmopsError as error:
            self.problem = " ".join(error.problem.split())
            self._tell(f"the keys stay as they were: {self.problem}")
        else:
            self.problem = None
            self._tell(f"keys read again from {self.file}: {len(self._holders)}")

    def _mark(self) -> tuple[int, ...] | None:
        """What changes when the file does; None where it cannot be looked at."""
        try:
            found = os.stat(self.file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _take(self, keys: tuple[Key, ...]) -> None:
        before = self._holders
        self._holders = {}
        for key in keys:
            known = before.get(key.id)
            allowance = Allowance(key.rpm, key.tpm) if known is None else known.allowance
            allowance.follow(key.rpm, key.tpm)
            tags = tuple(f"{name}={value}" for name, value in sorted(key.tags.items()))
            self._holders[key.id] = KeyHolder(key, key.id, tags, bytes.fromhex(key.sha256), allowance)


def _held_by(caller: Caller) -> KeyHolder:
    if not isinstance(caller, KeyHolder):
        raise TypeError("a caller that `who` did not name")
    return caller
