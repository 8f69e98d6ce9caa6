"""One request from its first byte to its last: who asks, where it goes, what comes back, and what is written down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from llmops.serve.answer_cache import AnswerCache, Kept, key_of
from llmops.serve.asking import Answered, Asking
from llmops.serve.attempt import Whole
from llmops.serve.core import Core
from llmops.serve.entry import Entry
from llmops.serve.hooks import Ask, Choice, Hold
from llmops.serve.intake import Asked, Left, Receive, Scope, Send, check_headers, headers_of, read_body, read_request
from llmops.serve.keeping import Keeping
from llmops.serve.refusal import Refusal
from llmops.serve.reply import JSON, STREAM, Reply
from llmops.serve.shadow import send_copy
from llmops.serve.streams import Cut
from llmops.serve.targets import Target
from llmops.serve.upstream import refusal_in_stream
from llmops.serve.usage import Usage

log = logging.getLogger("llmops.gateway")

CLIENT_LEFT = 499


class Exchange:
    """One request and its answer."""

    def __init__(self, core: Core, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._core = core
        self._settings = core.settings
        self._began = time.perf_counter()
        self._entry = Entry(id=f"req_{uuid4().hex}", at=time.time(), endpoint=endpoint)
        self._reply = Reply(send, self._entry, self._began)
        self._scope = scope
        self._receive = receive
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ended_by: str | None = None
        self._hold: Hold | None = None
        self._usage = Usage()
        self._keeping: Keeping | None = None

    async def run(self) -> None:
        """Answers, whatever happens; nothing is raised but the end of the whole program."""
        self._task = asyncio.current_task()
        self._core.running.begin(self)
        try:
            await self._run()
        except asyncio.CancelledError:
            if self._ended_by == "client":
                self._entry.status, self._entry.error = CLIENT_LEFT, "client_left"
            else:
                await self._reply.refuse(stopping())
            if self._ended_by is None or self._task is None:
                raise
            self._task.uncancel()
        except Left:
            self._entry.status, self._entry.error = CLIENT_LEFT, "client_left"
        except Refusal as refusal:
            await self._reply.refuse(refusal)
        except Exception:
            log.exception("request %s failed", self._entry.id)
            await self._reply.refuse(Refusal(500, "the gateway failed; its log says more", code="internal_error"))
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._core.running.end(self)
            self._write_down()

    def stop(self) -> None:
        """The program is about to end."""
        self._end("program")

    def _end(self, by: str) -> None:
        if self._ended_by is None and self._task is not None:
            self._ended_by = by
            self._task.cancel()

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end("client")

    async def _run(self) -> None:
        core, entry, settings = self._core, self._entry, self._settings
        if core.running.draining:
            raise stopping()
        headers = headers_of(self._scope)
        check_headers(headers, self._scope, settings.limits)
        entry.trace = headers.get("traceparent")
        caller = core.gatekeeper.who(secret_in(headers))
        entry.key, entry.tags = caller.id, caller.tags
        raw = await read_body(self._receive, settings.limits)
        asked = read_request(entry.endpoint, raw)
        entry.stream = asked.stream
        route = settings.routes.get(asked.model)
        if route is None:
            raise Refusal(404, f"there is no model {asked.model!r}", code="model_not_found", param="model")
        entry.route = asked.model
        if not core.gatekeeper.may(caller, asked.model):
            raise Refusal(403, f"this key may not ask {asked.model!r}", code="route_not_allowed", param="model")
        ask = Ask(asked.model, route, entry.endpoint, asked.body, headers, caller.id)
        choice = core.policy.choose(ask)
        entry.engine, entry.reason = choice.engine, choice.reason
        entry.session, entry.side = choice.session, choice.side
        self._hold = core.gatekeeper.reserve(caller, asked.tokens())
        core.retries.request(time.monotonic())
        self._watch = asyncio.create_task(self._watch_client())
        cache = core.caches.get(asked.model)
        if cache is not None and (kept := self._kept(cache, asked, choice)) is not None:
            await self._give_kept(kept)
            return
        self._keeping = Keeping.decided(route, asked.raw, shadowed=choice.shadow is not None)
        if cache is not None or self._keeping is not None:
            self._reply.sent = []
        if choice.shadow is not None and route.shadow is not None:
            send_copy(core, asked, route, choice.shadow, route.shadow, headers, entry)
        asking = Asking(core, entry, asked, route, choice, headers)
        try:
            async with asyncio.timeout(route.timeout_s):
                answered = await asking.answer(ask)
                await self._give(answered, asking)
        except TimeoutError as error:
            raise Refusal(504, f"no whole answer within {route.timeout_s:g} s", code="timeout") from error
        if cache is not None and entry.engine == choice.engine:
            self._keep_for_others(cache, asked, answered)

    async def _give(self, answered: Answered, asking: Asking) -> None:
        answer = answered.answer
        if isinstance(answer, Whole):
            self._usage = answer.usage
            await self._reply.whole(answer.raw)
            return
        succeeded: bool | None = None
        try:
            await self._reply.stream(answer)
            succeeded = answer.stream.done
        except Cut as cut:
            succeeded = False
            raise Refusal(502, str(cut), code="stream_cut") from cut
        finally:
            self._usage = answer.stream.tokens()
            answer.response.close()
            asking.give_back(answered.place, succeeded)
        if answer.stream.failed is not None:
            raise refusal_in_stream(answer.stream.failed, answered.place.target, self._entry.route or "")
        await self._reply.end()

    def _kept(self, cache: AnswerCache, asked: Asked, choice: Choice) -> Kept | None:
        """The answer that was given to the same request before, by the version that would answer now."""
        targets = self._core.targets.of(choice.engine)
        key = self._cache_key(cache, asked, targets[0]) if targets else None
        if key is None:
            return None
        kept = cache.get(key, time.monotonic())
        self._core.counts["cache_miss" if kept is None else "cache_hit", asked.model] += 1
        return kept

    async def _give_kept(self, kept: Kept) -> None:
        self._entry.from_cache = True
        self._entry.engine, self._entry.version, self._entry.usd = kept.engine, kept.version, 0.0
        self._usage = kept.usage
        await self._reply.whole(kept.body, kept.content_type)

    def _keep_for_others(self, cache: AnswerCache, asked: Asked, answered: Answered) -> None:
        target = answered.place.target
        key = self._cache_key(cache, asked, target)
        if key is not None and self._reply.sent is not None:
            body = b"".join(self._reply.sent)
            content_type = JSON if isinstance(answered.answer, Whole) else STREAM
            kept = Kept(body, content_type, self._usage, self._entry.engine or "", target.version)
            cache.put(key, kept, time.monotonic())

    def _cache_key(self, cache: AnswerCache, asked: Asked, target: Target) -> bytes | None:
        caller = None if cache.settings.across_keys else self._entry.key
        return key_of(asked.endpoint, asked.body, version=target.version, digest=target.digest, caller=caller)

    def _write_down(self) -> None:
        """The end of every request, however it came."""
        entry, usage = self._entry, self._usage
        entry.total = time.perf_counter() - self._began
        entry.prompt_tokens, entry.completion_tokens, entry.cached_tokens = usage
        if self._hold is not None:
            # Of a client that left, it is not known what the engine did for it: what was reserved stays taken.
            unknown = entry.status == CLIENT_LEFT and usage.prompt is None
            try:
                self._hold.settle(None if unknown else 0 if entry.from_cache else usage.total(), entry.usd)
            except Exception:
                log.exception("request %s could not be settled", entry.id)
        self._core.write_down(entry)
        if self._keeping is not None and self._reply.sent and entry.status == 200:
            self._core.capture(self._keeping.captured(entry, b"".join(self._reply.sent)), self._keeping.settings)


def secret_in(headers: Mapping[str, str]) -> str | None:
    """The caller's key, as OpenAI's clients send it, or Anthropic's."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return headers.get("x-api-key")


def stopping() -> Refusal:
    return Refusal(503, "the gateway is being stopped", code="stopping", retry_after=1, close=True)
