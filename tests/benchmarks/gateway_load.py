"""Both ends of a measurement of a gateway, each a process: `upstream`, an engine that waits 20 ms, and `load`, clients.

`python -m tests.benchmarks.gateway_load upstream` prints its port; `… load URL --clients 16 --seconds 5 [--stream]`
prints one line of JSON. Both speak HTTP by hand, so that they take little of the cores they share with the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any, cast

import uvloop

WAIT_S = 0.02
TOKEN_S = 0.01
TOKENS = 20
PROMPT = "What is the capital of the country whose flag has a red circle on white? " * 4


class Upstream(asyncio.Protocol):
    """Answers every POST after `WAIT_S`: as a whole, or as `TOKENS` events `TOKEN_S` apart, with their time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        if not head.startswith(b"POST"):
            self._write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        streamed = b'"stream":true' in rest or b'"stream": true' in rest
        self._loop.call_later(WAIT_S, self._stream if streamed else self._whole)

    def _write(self, data: bytes) -> None:
        if not self._out.is_closing():
            self._out.write(data)

    def _whole(self) -> None:
        body = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "served",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "Tokyo. " * 30}, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": 80, "completion_tokens": 60, "total_tokens": 140},
            },
            separators=(",", ":"),
        ).encode()
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )

    def _stream(self) -> None:
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self._token(0)

    def _token(self, number: int) -> None:
        choice: dict[str, Any] = {"index": 0, "delta": {"content": f"@{time.monotonic_ns()}@"}, "finish_reason": None}
        if number == TOKENS - 1:
            choice["finish_reason"] = "stop"
        self._event(
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "served", "choices": [choice]}
        )
        if number < TOKENS - 1:
            self._loop.call_later(TOKEN_S, self._token, number + 1)
            return
        usage = {"prompt_tokens": 80, "completion_tokens": TOKENS, "total_tokens": 80 + TOKENS}
        self._event({"id": "c", "object": "chat.completion.chunk", "model": "served", "choices": [], "usage": usage})
        self._write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _event(self, value: dict[str, Any]) -> None:
        data = b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
        self._write(b"%x\r\n%b\r\n" % (len(data), data))


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, until the time is over."""

    def __init__(self, request: bytes, until: float, results: Results) -> None:
        self._request = request
        self._until = until
        self._results = results
        self._buffer = b""
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self._results.failed += 1
            self.over.set_result(None)

    def _ask(self) -> None:
        if time.monotonic() >= self._until:
            self.over.set_result(None)
            self._out.close()
            return
        self._buffer = b""
        self._first = 0.0
        self._began = time.perf_counter()
        self._out.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        arrived = time.monotonic_ns()
        for stamp in data.split(b"@")[1::2]:
            if stamp.isdigit():
                self._results.ways.append((arrived - int(stamp)) / 1e9)
                self._first = self._first or now
        self._buffer += data
        if not self._whole():
            return
        if self._buffer.startswith(b"HTTP/1.1 200"):
            self._results.times.append(now - self._began)
            if self._first:
                self._results.firsts.append(self._first - self._began)
        else:
            self._results.failed += 1
        self._ask()

    def _whole(self) -> bool:
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            return body.endswith(b"0\r\n\r\n")
        length = lower.partition(b"content-length:")[2].partition(b"\r\n")[0]
        return len(body) >= int(length or 0)


class Results:
    """Of all clients: seconds of whole answers, to their first token, and of each token on its way; failures."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.firsts: list[float] = []
        self.ways: list[float] = []
        self.failed = 0

    def summary(self, seconds: float) -> dict[str, float]:
        found: dict[str, float] = {"per_s": len(self.times) / seconds, "failed": self.failed, "count": len(self.times)}
        for name, values in (("whole", self.times), ("first", self.firsts), ("way", self.ways)):
            values.sort()
            if values:
                found |= {f"{name}_p50": values[len(values) // 2], f"{name}_p99": values[int(len(values) * 0.99)]}
        return found


async def upstream() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def load(url: str, *, clients: int, seconds: float, streamed: bool, key: str, model: str) -> dict[str, float]:
    host, _, rest = url.removeprefix("http://").partition(":")
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64, "stream": streamed}
    ).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    results = Results()
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    made = [
        await loop.create_connection(lambda: Client(request, began + seconds, results), host, int(rest.strip("/")))
        for _ in range(clients)
    ]
    await asyncio.gather(*(client.over for _, client in made))
    return results.summary(time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["upstream", "load"])
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="m")
    chosen = parser.parse_args()
    if chosen.what == "upstream":
        uvloop.run(upstream())
        return
    work = load(
        chosen.url,
        clients=chosen.clients,
        seconds=chosen.seconds,
        streamed=chosen.stream,
        key=chosen.key,
        model=chosen.model,
    )
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
