"""One request to one replica, up to its first byte: then it is either an answer or another replica's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from llmops.serve.dispatch import Place
from llmops.serve.intake import Asked
from llmops.serve.naming import Renaming, for_engine, name_in
from llmops.serve.streams import Cut, Stream, written
from llmops.serve.upstream import Failure, Upstream, broken, late, read, refusal_in_stream, refuse, whole
from llmops.serve.usage import Usage, usage_of


@dataclass(slots=True, eq=False)
class Whole:
    """An answer in one piece; `raw` is `value` written."""

    raw: bytes
    value: dict[str, Any]

    @property
    def usage(self) -> Usage:
        return usage_of(self.value) or Usage()


@dataclass(slots=True, eq=False)
class Opened:
    """An answer that comes bit by bit; `first` is what the client gets of it so far."""

    response: aiohttp.ClientResponse
    stream: Stream
    first: bytes

    async def next(self) -> bytes | None:
        """What the client gets next, perhaps nothing; None after the last.

        Raises:
            Cut: it broke off.
        """
        if self.stream.over:
            return None
        try:
            data = await self.response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Cut("the engine broke off in the middle of its answer") from error
        return self.stream.feed(data) if data else self.stream.end()


def written_for(asked: Asked, model: str, changes: Mapping[str, Any] | None = None) -> bytes:
    """The request as the engine gets it: its name for the model, and usage asked for in streams."""
    wanted = dict(changes or {})
    if asked.metered and asked.options.get("include_usage") is not True:
        wanted["stream_options"] = {**asked.options, "include_usage": True}
    return for_engine(asked.raw, asked.body, model, changes=wanted)


async def attempt(
    upstream: Upstream,
    place: Place,
    asked: Asked,
    raw: bytes,
    headers: Mapping[str, str],
    *,
    request: str,
    first_byte_s: float,
) -> Whole | Opened:
    """The answer to `raw` by the replica of `place`; one in pieces has begun.

    Args:
        first_byte_s: for answers that come in pieces; one in one piece begins when it is finished.

    Raises:
        Failure: there is none.
    """
    target = place.target
    if not asked.stream:
        response = await upstream.ask(target, asked.endpoint, raw, headers, request)
        return await _whole(response, place, asked)
    try:
        async with asyncio.timeout(first_byte_s):
            response = await upstream.ask(target, asked.endpoint, raw, headers, request)
            if response.status != 200 or response.content_type != "text/event-stream":
                return await _whole(response, place, asked)
            return await _opened(response, place, asked)
    except TimeoutError as error:
        raise late(first_byte_s) from error


async def _whole(response: aiohttp.ClientResponse, place: Place, asked: Asked) -> Whole:
    try:
        raw = await whole(response)
    except BaseException:
        response.close()
        raise
    target = place.target
    if response.status != 200:
        refuse(response.status, raw, response.headers, target, asked.model)
    value = read(raw)
    name = name_in(value)
    if name is not None and name != asked.model:
        renaming = Renaming(name, asked.model)
        value = renaming.value(value)
        raw = renaming.bytes(raw) or written(value) or raw
    return Whole(raw, value)


async def _opened(response: aiohttp.ClientResponse, place: Place, asked: Asked) -> Opened:
    stream = Stream(
        route=asked.model,
        choices=asked.choices,
        usage_asked=asked.options.get("include_usage") is True,
        usage_in_all=asked.options.get("continuous_usage_stats") is True,
    )
    try:
        first = b""
        while not first and not stream.over:
            data = await response.content.readany()
            first = stream.feed(data) if data else stream.end()
        if not stream.begun and stream.failed is not None:
            refusal = refusal_in_stream(stream.failed, place.target, asked.model)
            raise Failure(refusal, blame=refusal.status >= 500, again=refusal.status >= 500)
    except (aiohttp.ClientError, OSError, Cut) as error:
        response.close()
        raise broken(error) from error
    except BaseException:
        response.close()
        raise
    return Opened(response, stream, first)
