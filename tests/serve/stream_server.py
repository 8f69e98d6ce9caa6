"""A small server of streamed chat completions over real HTTP, with times that are known beforehand."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.patience import HANG_S


@dataclass
class Streams:
    """How it answers.

    Attributes:
        before: awaited before the first piece; gets the seconds since the first request and the request's body.
        pieces: of each answer, `gap` seconds apart.
        end: what follows the pieces; a stream without `[DONE]` is a cut one.
    """

    before: Callable[[float, dict[str, Any]], Awaitable[None]]
    pieces: int = 3
    gap: float = 0.0
    status: Callable[[int], int] = lambda number: 200
    end: bytes = b"data: [DONE]\n\n"
    usage: bool = True
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    first: float | None = None


def chunk(**values: Any) -> bytes:
    return b"data: " + json.dumps(values).encode() + b"\r\n\r\n"


def piece(text: str) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": text}}])


@contextmanager
def streaming(streams: Streams) -> Iterator[Streams]:
    async def answer(request: web.Request) -> web.StreamResponse:
        streams.first = time.perf_counter() if streams.first is None else streams.first
        body = await request.json()
        streams.asked.append(body)
        streams.headers.append({name.lower(): value for name, value in request.headers.items()})
        status = streams.status(len(streams.asked))
        if status != 200:
            return web.Response(status=status, text="no")
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b": a comment\n\n" + chunk(choices=[{"index": 0, "delta": {"role": "assistant"}}]))
        await streams.before(time.perf_counter() - streams.first, body)
        for number in range(streams.pieces):
            if number and streams.gap:
                await asyncio.sleep(streams.gap)
            await reply.write(piece(f"w{number} é"))
        await reply.write(chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        if streams.usage:
            await reply.write(chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": streams.pieces}))
        await reply.write(streams.end)
        return reply

    async def main() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        streams.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        try:
            await over
        finally:
            await runner.cleanup()

    loop, ready = asyncio.new_event_loop(), threading.Event()
    over: asyncio.Future[None] = loop.create_future()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert ready.wait(HANG_S)
    try:
        yield streams
    finally:
        loop.call_soon_threadsafe(over.set_result, None)
        thread.join()
        loop.close()


async def at_once(since: float, body: dict[str, Any]) -> None:
    pass
