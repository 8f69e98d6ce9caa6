"""What goes out to the client: headers, a body or a stream, and an end that says when something went wrong."""

from __future__ import annotations

import re
import time

from llmops.serve.attempt import Opened
from llmops.serve.entry import Entry
from llmops.serve.intake import Send
from llmops.serve.refusal import Refusal
from llmops.serve.streams import error_event

JSON = b"application/json"
STREAM = b"text/event-stream; charset=utf-8"
_UNPRINTABLE = re.compile(r"[^ -~]")


class Reply:
    """One answer on its way out.

    Attributes:
        started: its status has been sent.
        sent: what has been sent of the body, where it is kept; None where it is not.
    """

    def __init__(self, send: Send, entry: Entry, began: float) -> None:
        """Args: began: `time.perf_counter()` when the request came."""
        self._send = send
        self._entry = entry
        self._began = began
        self.started = False
        self._streaming = False
        self.sent: list[bytes] | None = None

    async def whole(self, body: bytes, content_type: bytes = JSON) -> None:
        """A whole answer at once."""
        headers = [*self._headers(content_type), (b"content-length", str(len(body)).encode())]
        if self._entry.from_cache:
            headers.append((b"x-llmops-cache", b"hit"))
        await self._start(200, headers)
        if self.sent is not None:
            self.sent.append(body)
        self._entry.first_token = time.perf_counter() - self._began
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, opened: Opened) -> None:
        """A stream to its end.

        Raises:
            Cut: the engine broke off.
        """
        await self._start(200, [*self._headers(STREAM), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")])
        self._streaming = True
        self._entry.first_token = time.perf_counter() - self._began
        part: bytes | None = opened.first
        while part is not None:
            if part:
                if self.sent is not None:
                    self.sent.append(part)
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
            part = await opened.next()

    async def end(self) -> None:
        """A stream is whole."""
        self._streaming = False
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, refusal: Refusal) -> None:
        """The error: as the whole answer, or as the last event of a stream that has begun."""
        self._entry.error = refusal.code or refusal.kind
        if self.started:
            if not self._streaming:
                return  # the answer has been given
            self._streaming = False
            event = error_event(refusal.error(), self._entry.endpoint)
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
            return
        body = refusal.body()
        headers = [
            (b"content-type", JSON),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self._entry.id.encode()),
            *refusal.headers(),
        ]
        if refusal.close:
            headers.append((b"connection", b"close"))
        await self._start(refusal.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        self._entry.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def _headers(self, content_type: bytes) -> list[tuple[bytes, bytes]]:
        entry = self._entry
        headers = [
            (b"content-type", content_type),
            (b"x-request-id", entry.id.encode()),
            (b"x-llmops-route", header(entry.reason or "")),
            (b"x-llmops-engine", header(entry.engine or "")),
            (b"x-llmops-version", header(entry.version or "")),
        ]
        if entry.fallback:
            headers.append((b"x-llmops-fallback", b"true"))
        return headers


def header(text: str) -> bytes:
    """As it can stand in a header."""
    return text.encode() if text.isascii() and text.isprintable() else _UNPRINTABLE.sub("?", text).encode()
