"""Load on a server: each request is sent when its time has come, however the ones before it fare."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from llmops.serve.arrivals import Shot


@dataclass(slots=True)
class Sent:
    """What came of a shot; times are in seconds from the start of the load.

    Attributes:
        intended: when it was to be sent; all waiting is counted from here, so that a server (or a load generator)
            that stalls does not hide the requests that would have come meanwhile.
        sent: when it was.
        first, last: when the first and the last piece of the answer came; None where none did.
        ended: when it was over, in whatever way.
        gaps: seconds between pieces of the answer.
        tokens, prompt_tokens: as the server counts them, else the pieces; None where nothing is known.
        error: in few words; None where it was answered whole.
    """

    intended: float
    sent: float = 0.0
    first: float | None = None
    last: float | None = None
    ended: float = 0.0
    gaps: array[float] = field(default_factory=lambda: array("d"))
    tokens: int | None = None
    prompt_tokens: int | None = None
    error: str | None = None

    @property
    def latency(self) -> float:
        """From when it was to be sent to its end."""
        return self.ended - self.intended

    @property
    def to_first(self) -> float | None:
        """From when it was to be sent to the first piece of the answer."""
        return None if self.first is None else self.first - self.intended

    @property
    def per_token(self) -> float | None:
        """Mean time for a token after the first; None for an answer of one token."""
        if self.first is None or self.last is None or not self.tokens or self.tokens < 2:
            return None
        return (self.last - self.first) / (self.tokens - 1)

    @property
    def lag(self) -> float:
        """By which the generator was late itself."""
        return self.sent - self.intended


@dataclass(frozen=True, slots=True)
class Loaded:
    """Every shot's fate, in the order of their times, and what the generator itself used.

    Attributes:
        seconds: from the start to the last answer.
        busy: share of one processor that this process used.
    """

    sent: list[Sent]
    seconds: float
    busy: float


async def load(
    url: str,
    shots: Sequence[Shot],
    *,
    key: str | None = None,
    timeout_s: float = 600.0,
    most_open: int = 4096,
    heard: Callable[[int], None] = lambda done: None,
) -> Loaded:
    """Send every shot at its time to the chat completions of a server.

    Args:
        url: up to /v1.
        most_open: requests under way beyond which a shot counts as failed and is not sent.
    """
    done = 0
    open_now = 0
    found = [Sent(shot.at) for shot in shots]
    tasks: set[asyncio.Task[None]] = set()
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    bodies = [json.dumps(shot.body).encode() for shot in shots]  # before the clock starts
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
        worked, start = time.process_time(), time.perf_counter()

        def now() -> float:
            return time.perf_counter() - start

        async def one(sent: Sent, body: bytes) -> None:
            nonlocal done, open_now
            open_now += 1
            sent.sent = now()
            try:
                async with asyncio.timeout(timeout_s):
                    await _ask(session, f"{url}/chat/completions", body, sent, now)
            except TimeoutError:
                sent.error = f"no end within {timeout_s:g} s"
            except (aiohttp.ClientError, OSError) as error:
                sent.error = type(error).__name__
            except (AttributeError, TypeError):
                sent.error = "a chunk of another form"
            finally:
                sent.ended = now()
                open_now -= 1
                done += 1
                heard(done)

        for sent, body in zip(found, bodies, strict=True):
            await asyncio.sleep(max(0.0, sent.intended - now()))
            if open_now >= most_open:
                sent.sent = sent.ended = now()
                sent.error = f"not sent: {most_open:,} were open"
                done += 1
                continue
            task = asyncio.create_task(one(sent, body))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        seconds = now()
    return Loaded(found, seconds, (time.process_time() - worked) / seconds if seconds else 0.0)


async def _ask(session: aiohttp.ClientSession, url: str, body: bytes, sent: Sent, now: Callable[[], float]) -> None:
    async with session.post(url, data=body) as reply:
        if reply.status != 200:
            await reply.read()
            sent.error = f"status {reply.status}"
            return
        pieces, ended = 0, False
        async for data in _events(reply.content):
            if data == b"[DONE]":
                ended = True
                continue
            try:
                chunk = json.loads(data)
            except ValueError:
                sent.error = "a chunk that is no JSON"
                return
            if not isinstance(chunk, dict) or chunk.get("error"):
                sent.error = "an error in the stream"
                return
            usage = chunk.get("usage")
            if usage:
                sent.tokens, sent.prompt_tokens = usage.get("completion_tokens"), usage.get("prompt_tokens")
            if any(map(_says, chunk.get("choices") or ())):
                at = now()
                if sent.last is None:
                    sent.first = at
                else:
                    sent.gaps.append(at - sent.last)
                sent.last = at
                pieces += 1
        if not ended:
            sent.error = "a stream that was cut"
        elif sent.tokens is None:
            sent.tokens = pieces


def _says(choice: Any) -> bool:
    """The chunk holds a piece of the answer, not only its role or its end."""
    delta = choice.get("delta") or {}
    return bool(
        delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or delta.get("tool_calls")
    )


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of server-sent events, each a line."""
    rest = b""
    async for block in content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()
