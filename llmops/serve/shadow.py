"""Copies of requests to another engine: nobody waits for them, and they never take more than their share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

from llmops.serve.asking import Asking
from llmops.serve.attempt import Whole
from llmops.serve.core import Core
from llmops.serve.entry import Entry
from llmops.serve.hooks import Choice
from llmops.serve.intake import Asked
from llmops.serve.keeping import Keeping
from llmops.serve.refusal import Refusal
from llmops.serve.settings import AnyRoute, Shadow
from llmops.serve.streams import written

log = logging.getLogger("llmops.gateway")


def send_copy(
    core: Core, asked: Asked, route: AnyRoute, to: str, shadow: Shadow, headers: Mapping[str, str], original: Entry
) -> None:
    """Sends a copy of a request to the engine `to`, in one piece, unless as many as may be are under way."""
    if core.copies[asked.model] >= shadow.at_once:
        core.counts["shadow_left_out", asked.model] += 1
        return
    core.copies[asked.model] += 1
    entry = Entry(
        id=f"req_{uuid4().hex}",
        at=time.time(),
        endpoint=original.endpoint,
        key=original.key,
        route=original.route,
        engine=to,
        reason="shadow",
        session=original.session,
        side=original.side,
        shadow_of=original.id,
        tags=original.tags,
    )
    body = {name: value for name, value in asked.body.items() if name != "stream_options"} | {"stream": False}
    # Without its bytes it is written anew, from its fields.
    copy = replace(asked, raw=b"", body=body, stream=False)
    core.background(_copied(core, entry, copy, route, shadow, headers))


async def _copied(
    core: Core, entry: Entry, asked: Asked, route: AnyRoute, shadow: Shadow, headers: Mapping[str, str]
) -> None:
    began = time.perf_counter()
    # It waits for nobody's place, and nobody waits for its own.
    alone = route.model_copy(update={"queue": 0, "fallback": []})
    asking = Asking(core, entry, asked, alone, Choice(entry.engine or "", "shadow", session=entry.session), headers)
    answer: Whole | None = None
    try:
        async with asyncio.timeout(route.timeout_s):
            given = (await asking.first([entry.engine or ""])).answer
        assert isinstance(given, Whole)
        answer = given
        entry.status = 200
        entry.prompt_tokens, entry.completion_tokens, entry.cached_tokens = given.usage
    except Refusal as refusal:
        entry.status, entry.error = refusal.status, refusal.code or refusal.kind
    except TimeoutError:
        entry.status, entry.error = 504, "timeout"
    finally:
        core.copies[asked.model] -= 1
    entry.total = entry.first_token = time.perf_counter() - began
    core.write_down(entry)
    if answer is not None and route.capture is not None:
        kept = Keeping(route.capture, shadow.share, written(asked.body) or b"")
        core.capture(kept.captured(entry, answer.raw), route.capture)
