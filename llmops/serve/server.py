"""The gateway on a socket: uvicorn with limits on what a client may send before there is a request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llmops.serve.refusal import Refusal
from llmops.serve.settings import Limits

_TURN_S = 0.0005
KEEP_ALIVE_S = 75
"""Longer than clients keep a quiet connection, so that none is closed just as it is used again."""


def config_of(app: Any, limits: Callable[[], Limits]) -> uvicorn.Config:
    """How uvicorn serves the application; what clients may send is guarded while it still comes.

    Args:
        limits: those that hold now.
    """

    class Limited(GuardedProtocol):
        def limits(self) -> Limits:
            return limits()

    return uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing asks where a client is
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,  # answers have ended by then, or had their time
    )


def shorten_pauses() -> None:
    """For a process that does nothing but serve, once all is made: the interpreter's own pauses become short.

    Other threads, such as the ledger's, may hold it for 0.5 ms at a time instead of 5; and what has been made until now
    is not looked at again by collections of garbage, which would stop everything for some tens of milliseconds.
    """
    sys.setswitchinterval(_TURN_S)
    gc.collect()
    gc.freeze()


class Server(uvicorn.Server):
    """Serves until `should_exit`. Signals are left to whoever runs it: answers end before engines do."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class GuardedProtocol(HttpToolsProtocol):
    """Refuses a request whose headers are too large, or too slow, while they still come."""

    @abstractmethod
    def limits(self) -> Limits:
        """Those that hold now."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._head = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(self.limits().body_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            if self._head_timer is not None:
                self._forget_timer()
            return
        self._head += len(data)
        limits = self.limits()
        if self._head > limits.headers_kb * 1000:
            self._refuse(Refusal(431, f"the headers are larger than {limits.headers_kb:g} kB"))
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(limits.body_s, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, msg, code="invalid_http"))

    def _too_slow(self) -> None:
        self._head_timer = None
        self._refuse(Refusal(408, f"the headers did not come within {self.limits().body_s:g} s"))

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        body = refusal.body()
        self.transport.write(
            STATUS_LINE[refusal.status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        self.transport.close()

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
