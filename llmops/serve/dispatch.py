"""Gives requests a place at a replica, and lets them wait in line where none has room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from llmops.serve.balance import chosen
from llmops.serve.breaker import Breaker
from llmops.serve.refusal import Refusal
from llmops.serve.settings import AnyRoute
from llmops.serve.targets import Replica, Target, Targets

LOOK_S = 0.05
"""Seconds between two looks at replicas that may have become ready while requests wait."""


class Down(Exception):
    """No replica of an engine can be asked.

    Attributes:
        soon: one is being started.
        retry_after: seconds until one may be.
    """

    def __init__(self, problem: str, *, soon: bool = False, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.soon = soon
        self.retry_after = retry_after


class _Busy(Exception):
    """Every replica that could be asked has all it may have."""


@dataclass(slots=True)
class Standing:
    """What the gateway knows of a replica.

    Attributes:
        shared_s: the time during which it had something to do, in seconds, each divided by the number of requests
            under way then: what one request that is there all the time is charged.
    """

    breaker: Breaker = field(default_factory=Breaker)
    shared_s: float = 0.0
    at: float = 0.0

    def move_on(self, replica: Replica, now: float, change: int) -> None:
        """Called whenever the number of requests under way changes."""
        if replica.in_flight:
            self.shared_s += (now - self.at) / replica.in_flight
        self.at = now
        replica.in_flight += change


@dataclass(slots=True, eq=False)
class Place:
    """A request at a replica, until it is given back."""

    target: Target
    standing: Standing
    since: float


@dataclass(slots=True, eq=False)
class _Waiter:
    place: asyncio.Future[Place]
    key: Callable[[], bytes | None]
    tried: Collection[Replica]


class Dispatch:
    """Hands out places, first come, first served."""

    def __init__(self, targets: Targets, *, in_flight: int) -> None:
        """Args: in_flight: most requests under way at one replica; may be set anew."""
        self.targets = targets
        self.in_flight = in_flight
        self._lines: dict[str, deque[_Waiter]] = {}
        self._standings: WeakKeyDictionary[Replica, Standing] = WeakKeyDictionary()
        self._look: asyncio.TimerHandle | None = None

    def standing(self, replica: Replica) -> Standing:
        found = self._standings.get(replica)
        if found is None:
            found = self._standings[replica] = Standing()
        return found

    def waiting(self) -> dict[str, int]:
        """Requests in line, by engine."""
        return {engine: len(line) for engine, line in self._lines.items() if line}

    async def take(
        self,
        engine: str,
        *,
        key: Callable[[], bytes | None],
        tried: Collection[Replica],
        route: AnyRoute,
        patient: bool,
    ) -> Place:
        """A place at a replica of `engine`.

        Args:
            key: see `balance.chosen`.
            tried: replicas that have failed this request already.
            patient: wait for an engine that is being started; otherwise only for one that has too much to do.

        Raises:
            Down: no replica can be asked, and waiting would not help or is not wanted.
            Refusal: 429, the line is full; 503, it took too long.
        """
        line = self._lines.get(engine)
        try:
            # Those whom a replica has failed had their choice of the places that are free now.
            if not line or all(waiter.tried for waiter in line):
                return self._place(engine, key, tried)
            self._askable(engine, tried)
        except Down as down:
            if not (down.soon and patient):
                raise
        except _Busy:
            pass
        if line is None:
            line = self._lines[engine] = deque()
        if len(line) >= route.queue:
            raise Refusal(429, f"{len(line)} requests wait for this model already", code="queue_full", retry_after=1)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), key, tried)
        line.append(waiter)
        if self._look is None:
            self._look = loop.call_later(LOOK_S, self._look_again)
        try:
            async with asyncio.timeout(route.queue_s):
                return await waiter.place
        except TimeoutError as error:
            self._leave(line, waiter)
            raise Refusal(
                503, f"no room at this model within {route.queue_s:g} s", code="queue_timeout", retry_after=1
            ) from error
        except asyncio.CancelledError:
            self._leave(line, waiter)
            raise

    def _leave(self, line: deque[_Waiter], waiter: _Waiter) -> None:
        if waiter in line:
            line.remove(waiter)
        elif waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
            # It got a place at the very moment at which it gave up.
            self.give_back(waiter.place.result(), succeeded=None)

    def give_back(self, place: Place, *, succeeded: bool | None) -> float | None:
        """The request has left the replica; the next in line gets its place.

        Args:
            succeeded: what that says of the replica; None where it says nothing.

        Returns:
            What it cost in USD; None where the replica has no price.
        """
        now = asyncio.get_running_loop().time()
        replica, standing = place.target.replica, place.standing
        standing.move_on(replica, now, -1)
        place.target.use.in_flight -= 1
        if succeeded is None:
            standing.breaker.undecided()
        elif succeeded:
            standing.breaker.succeeded()
        else:
            standing.breaker.failed(now)
        if self._lines:
            self._serve_lines()
        price = replica.usd_per_hour
        return None if price is None else price / 3600 * (standing.shared_s - place.since)

    def _askable(self, engine: str, tried: Collection[Replica]) -> list[Target]:
        """Targets that are ready, have not failed this request, and not too many others; at least one."""
        targets = self.targets.of(engine)
        ready = [one for one in targets if one.replica.state == "ready"]
        if not ready:
            soon = any(one.replica.state in ("starting", "waiting") for one in targets)
            raise Down("the engine is being started" if soon else "the engine is down", soon=soon, retry_after=5)
        left = [one for one in ready if one.replica not in tried] if tried else ready
        if not left:
            raise Down("every replica of the engine has failed this request")
        now = asyncio.get_running_loop().time()
        closed = [one for one in left if self.standing(one.replica).breaker.may(now)]
        if not closed:
            wait = min(self.standing(one.replica).breaker.opens_in(now) for one in left)
            raise Down("the engine fails and is left alone for a moment", retry_after=wait)
        return closed

    def _place(self, engine: str, key: Callable[[], bytes | None], tried: Collection[Replica]) -> Place:
        closed = self._askable(engine, tried)
        now = asyncio.get_running_loop().time()
        with_room = [one for one in closed if one.replica.in_flight < self.in_flight]
        if not with_room:
            raise _Busy
        target = chosen(with_room, key)
        standing = self.standing(target.replica)
        standing.breaker.begin()
        standing.move_on(target.replica, now, 1)
        target.use.in_flight += 1
        return Place(target, standing, standing.shared_s)

    def _look_again(self) -> None:
        self._look = None
        self._serve_lines()
        if self._lines:
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _serve_lines(self) -> None:
        for engine, line in list(self._lines.items()):
            passed_over: list[_Waiter] = []
            while line:
                waiter = line[0]
                if not waiter.place.done():
                    try:
                        waiter.place.set_result(self._place(engine, waiter.key, waiter.tried))
                    except _Busy:
                        if not waiter.tried:
                            break
                        # A replica has failed this one, so it waits for the others; those behind it may go there.
                        passed_over.append(waiter)
                    except Down as down:
                        if down.soon:
                            break
                        waiter.place.set_exception(down)
                line.popleft()
            line.extendleft(reversed(passed_over))
            if not line and self._lines.get(engine) is line:
                del self._lines[engine]
