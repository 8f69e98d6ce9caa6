"""An engine over real HTTP that answers as an OpenAI-compatible server does, or as badly as it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def head(status: int = 200, *, kind: str = "application/json", length: int | None = None, more: str = "") -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 {status} Some Reason\r\ncontent-type: {kind}\r\n{framing}\r\n{more}\r\n".encode()


def plain(status: int, value: Any, more: str = "") -> bytes:
    """A whole answer; `value` as JSON, or bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return head(status, length=len(body), more=more) + body


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


LAST = b"0\r\n\r\n"
STREAM = head(kind="text/event-stream; charset=utf-8")


def event(value: Any) -> bytes:
    return (
        b"data: " + (value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()) + b"\n\n"
    )


def usage(completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 7,
        "completion_tokens": completion,
        "total_tokens": 7 + completion,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def chunks_of(body: dict[str, Any], words: list[str]) -> list[dict[str, Any]]:
    """What vLLM streams: the role, words one by one for each choice, ends, and usage where it is asked for."""
    like = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    several = range(body.get("n") or 1)

    def part(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**like, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    made = [part(index, {"role": "assistant", "content": ""}) for index in several]
    made += [part(index, {"content": word}) for word in words for index in several]
    made += [part(index, {"content": ""}, "stop") for index in several]
    if (body.get("stream_options") or {}).get("include_usage"):
        made.append({**like, "choices": [], "usage": usage(len(words) * len(several))})
    return made


def answer(body: dict[str, Any], text: str) -> dict[str, Any]:
    logprobs: dict[str, Any] = {
        "content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in text.split()]
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "logprobs": logprobs if body.get("logprobs") else None,
                "finish_reason": "stop",
            }
            for index in range(body.get("n") or 1)
        ],
        "usage": usage(len(text.split())),
    }


def speaking(words: list[str] | None = None, *, wait_s: float = 0.0) -> Behaviour:
    """A good engine that says `words`, each after `wait_s`."""
    said = words or ["hello ", "wörld", "!"]

    async def behave(request: Request, out: asyncio.StreamWriter) -> None:
        body = request.body
        if body.get("stream"):
            out.write(STREAM)
            for one in chunks_of(body, said):
                await asyncio.sleep(wait_s)
                out.write(chunk(event(one)))
                await out.drain()
            out.write(chunk(event(b"[DONE]")) + LAST)
        elif request.path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
            counted = {"prompt_tokens": 3, "total_tokens": 3}
            out.write(plain(200, {"object": "list", "data": data, "model": body["model"], "usage": counted}))
        else:
            await asyncio.sleep(wait_s)
            out.write(plain(200, answer(body, "".join(said))))
        await out.drain()

    return behave


def saying(*parts: bytes, wait_s: float = 0.0, then: str = "keep") -> Behaviour:
    """Exactly these bytes, each in a write of its own; `then`: keep the connection, close it, reset it, or hang."""

    async def behave(request: Request, out: asyncio.StreamWriter) -> None:
        for part in parts:
            out.write(part)
            await out.drain()
            await asyncio.sleep(wait_s)
        if then == "hang":
            await asyncio.sleep(3600)
        elif then == "close":
            out.close()
        elif then == "reset":
            out.transport.abort()

    return behave


class Go:
    """Tells engines that wait for it, from any thread, to go on."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def set(self) -> None:
        self._told.set()
        for loop, told in self._waiting:
            loop.call_soon_threadsafe(told.set)
        self._waiting = []

    def clear(self) -> None:
        self._told.clear()

    async def wait(self) -> None:
        told = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), told))
        if not self._told.is_set():
            await told.wait()


def holding(go: Go, *, begun: bytes = b"", then: Behaviour) -> Behaviour:
    """Writes what it has `begun`, and goes on as `then` once it is told to `go`."""

    async def behave(request: Request, out: asyncio.StreamWriter) -> None:
        out.write(begun)
        await out.drain()
        await go.wait()
        await then(request, out)

    return behave


def once(first: Behaviour, *, then: Behaviour, times: int = 1) -> Behaviour:
    """One behaviour for several engines: `first` for the first `times` requests that any of them gets."""
    left = [first] * times

    async def behave(request: Request, out: asyncio.StreamWriter) -> None:
        await (left.pop() if left else then)(request, out)

    return behave


@dataclass
class FakeEngine:
    """Attributes:
    asked: every request, in the order in which they came.
    left: requests whose connection the other side closed before the behaviour had ended.
    """

    behave: Behaviour
    url: str = ""
    asked: list[Request] = field(default_factory=list)
    under_way: int = 0
    left: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> FakeEngine:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=2**20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while not writer.is_closing() and (request := await _read(reader)) is not None:
                self.asked.append(request)
                await self._answered(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answered(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The behaviour to its end, or until the other side has gone."""
        self.under_way += 1
        work = asyncio.ensure_future(self.behave(request, writer))
        gone = asyncio.ensure_future(_gone(reader))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.left += 1
                raise ConnectionResetError
            work.result()
        finally:
            self.under_way -= 1
            for one in (work, gone):
                one.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has closed the connection; what it sends until then stays to be read."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.01)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(lines[0].split(" ")[1], headers, raw)


TOO_LONG = [
    # vLLM 0.32: renderers/params.py, v1/engine/input_processor.py, entrypoints/serve/utils/api_utils.py.
    "This model's maximum context length is 128 tokens. However, your prompt contains at least 129 input tokens, which "
    "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=129)",
    "max_tokens=100000 cannot be greater than max_model_len=128. Please request fewer output tokens. "
    "(parameter=max_tokens, value=100000)",
    "The decoder prompt (length 128) plus the number of requested output tokens (at least 1) is longer than the "
    "maximum model length of 128. Make sure that `max_model_len` is no smaller than the number of text tokens.",
    "Input length (129) exceeds model's maximum context length (128).",
    # SGLang, managers/tokenizer_manager.py; llama.cpp, tools/server.
    "The input (129 tokens) is longer than the model's context length (128 tokens).",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
]


def too_long(message: str = TOO_LONG[0]) -> bytes:
    """The body is that of vLLM's ErrorResponse."""
    said = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    return plain(400, {"error": said})
