"""Asks engines until one answers: replicas, retries within their budget, fallbacks, and the two steps of a cascade."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.serve import cascade
from llmops.serve.attempt import Opened, Whole, attempt, written_for
from llmops.serve.balance import beginning_of
from llmops.serve.core import Core
from llmops.serve.dispatch import Down, Place
from llmops.serve.entry import Entry
from llmops.serve.hooks import Ask, Choice
from llmops.serve.intake import Asked
from llmops.serve.refusal import Refusal
from llmops.serve.settings import AnyRoute
from llmops.serve.targets import Replica
from llmops.serve.upstream import TOO_LONG, Failure


@dataclass(slots=True, eq=False)
class Answered:
    """An answer and where it comes from; the place of one in pieces is to be given back at its end."""

    answer: Whole | Opened
    place: Place


class Asking:
    """One request on its way to an answer; what happens is noted in `entry`."""

    def __init__(
        self, core: Core, entry: Entry, asked: Asked, route: AnyRoute, choice: Choice, headers: Mapping[str, str]
    ) -> None:
        self._core = core
        self._retry_share = core.settings.limits.retry_share
        self._entry = entry
        self._asked = asked
        self._route = route
        self._choice = choice
        self._headers = headers

    async def answer(self, ask: Ask) -> Answered:
        """The answer to be given.

        Raises:
            Refusal: nobody answers; the last reason.
        """
        choice, fallback = self._choice, self._route.fallback
        if choice.larger is None or not cascade.applies(self._asked):
            return await self.first([choice.engine, *fallback])
        try:
            small = await self.first([choice.engine], cascade.changes(self._asked))
        except Refusal as refusal:
            too_long = refusal.code == TOO_LONG
            if refusal.status < 500 and not too_long:
                raise
            answered = await self.first([choice.larger, *fallback])
            if too_long:
                self._entry.escalated = True
            else:
                self._entry.fallback = True
            return answered
        assert isinstance(small.answer, Whole)
        if not self._core.policy.sure(ask, cascade.logprobs_of(small.answer.value)):
            try:
                large = await self.first([choice.larger])
            except Refusal as refusal:
                if refusal.status < 500:
                    raise
                # The small one's answer is better than none.
                self._entry.fallback = True
                self._note(small.place, choice.engine)
            else:
                self._entry.escalated = True
                return large
        small.answer = cascade.as_asked(small.answer, self._asked)
        return small

    async def first(self, engines: Sequence[str], changes: Mapping[str, Any] | None = None) -> Answered:
        """The first answer to be had of `engines`, asked in turn; all but the first are fallbacks."""
        tried: set[Replica] = set()
        last: Refusal | None = None
        worked_on = False
        for number, engine in enumerate(engines):
            while True:
                try:
                    place = await self._core.dispatch.take(
                        engine, key=self._key, tried=tried, route=self._route, patient=number == len(engines) - 1
                    )
                except Down as down:
                    last = last or Refusal(
                        503,
                        f"{self._asked.model!r} cannot be answered: {down.problem}",
                        code="engine_down",
                        retry_after=down.retry_after,
                    )
                    break
                if last is not None and worked_on and not self._may_retry():
                    self.give_back(place, None)
                    raise last
                if tried:
                    self._entry.retries += 1
                try:
                    answered = await self._attempt(place, changes)
                except Failure as failure:
                    last, worked_on = failure.refusal, failure.sent
                    tried.add(place.target.replica)
                    if not failure.again:
                        raise last from failure
                    continue
                self._note(place, engine)
                self._entry.fallback = number > 0
                return answered
        assert last is not None, "an engine was asked, or was down"
        raise last

    def give_back(self, place: Place, succeeded: bool | None) -> None:
        """See `Dispatch.give_back`; what it cost is noted."""
        usd = self._core.dispatch.give_back(place, succeeded=succeeded)
        if usd is not None:
            self._entry.usd = (self._entry.usd or 0.0) + usd

    async def _attempt(self, place: Place, changes: Mapping[str, Any] | None) -> Answered:
        succeeded: bool | None = None
        comes = False
        try:
            raw = written_for(self._asked, place.target.model, changes)
            answer = await attempt(
                self._core.upstream,
                place,
                self._asked,
                raw,
                self._headers,
                request=self._entry.id,
                first_byte_s=self._route.first_byte_s,
            )
            succeeded = True
            comes = isinstance(answer, Opened)
            return Answered(answer, place)
        except Failure as failure:
            succeeded = False if failure.blame else None
            raise
        finally:
            if not comes:
                self.give_back(place, succeeded)

    def _key(self) -> bytes | None:
        return self._choice.session.encode() if self._choice.session else beginning_of(self._asked.body)

    def _note(self, place: Place, engine: str) -> None:
        self._entry.engine = engine
        self._entry.version = place.target.version

    def _may_retry(self) -> bool:
        if self._core.retries.retry(time.monotonic(), self._retry_share):
            return True
        self._core.counts["retry_refused", self._asked.model] += 1
        return False
