"""The parts of a running gateway, and how its settings are exchanged while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from llmops.serve.answer_cache import AnswerCache
from llmops.serve.dispatch import Dispatch
from llmops.serve.entry import Captured, Entry
from llmops.serve.hooks import Gatekeeper, Metrics, Now, Policy, Recorder, ReplicaNow
from llmops.serve.retries import RetryBudget
from llmops.serve.running import Running
from llmops.serve.settings import Capture, Gateway
from llmops.serve.targets import Targets
from llmops.serve.upstream import Upstream

log = logging.getLogger("llmops.gateway")


class Core:
    """What all requests share.

    Attributes:
        settings: replaced as a whole; a request keeps the ones with which it began.
        counts: see `hooks.Now`.
        copies: shadow copies under way, by route.
    """

    def __init__(
        self,
        settings: Gateway,
        targets: Targets,
        *,
        gatekeeper: Gatekeeper,
        policy: Policy,
        recorder: Recorder,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.targets = targets
        self.gatekeeper = gatekeeper
        self.policy = policy
        self.recorder = recorder
        self.metrics = metrics
        self.dispatch = Dispatch(targets, in_flight=settings.limits.in_flight)
        self.upstream = Upstream()
        self.retries = RetryBudget()
        self.running = Running()
        self.caches: dict[str, AnswerCache] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self._set_caches()

    def reload(self, settings: Gateway, *, gatekeeper: Gatekeeper | None = None, policy: Policy | None = None) -> None:
        """From now on new requests see these; those under way end with what they began with."""
        self.settings = settings
        self.gatekeeper = gatekeeper or self.gatekeeper
        self.policy = policy or self.policy
        self.dispatch.in_flight = settings.limits.in_flight
        self._set_caches()

    def now(self) -> Now:
        time = asyncio.get_running_loop().time()
        return Now(
            draining=self.running.draining,
            under_way=len(self.running),
            replicas=tuple(
                ReplicaNow(
                    engine,
                    replica.number,
                    replica.url,
                    replica.state,
                    replica.reason,
                    replica.in_flight,
                    self.dispatch.standing(replica).breaker.state(time),
                )
                for engine in self.settings.engines
                for replica in dict.fromkeys(one.replica for one in self.targets.of(engine))
            ),
            waiting=self.dispatch.waiting(),
            counts=dict(self.counts),
        )

    def write_down(self, entry: Entry) -> None:
        """The request has ended. A ledger that fails is told in the log and stops no request."""
        for told in (self.recorder.record, self.metrics.observe):
            try:
                told(entry)
            except Exception:
                log.exception("request %s could not be written down", entry.id)

    def capture(self, captured: Captured | None, settings: Capture) -> None:
        """Keep a request and its answer, if there is one to be kept."""
        if captured is not None:
            try:
                self.recorder.capture(captured, redact=settings.redact)
            except Exception:
                log.exception("request %s could not be kept", captured.id)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that no request waits for; its failure is told in the log."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work in the background failed", exc_info=error)

    async def close(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.upstream.close()

    def _set_caches(self) -> None:
        wanted = {name: route.cache for name, route in self.settings.routes.items() if route.cache is not None}
        self.caches = {
            name: kept if (kept := self.caches.get(name)) and kept.settings == cache else AnswerCache(cache)
            for name, cache in wanted.items()
        }
