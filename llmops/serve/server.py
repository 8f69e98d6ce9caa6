"""The gateway on a socket: uvicorn with limits on what a client may send, and a stop that cuts nobody off."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llmops.errors import EnvironmentFault
from llmops.serve.app import App
from llmops.serve.refusal import Refusal
from llmops.serve.settings import Limits

KEEP_ALIVE_S = 75
"""Longer than clients keep a quiet connection, so that none is closed just as it is used again."""


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free one.

    Raises:
        EnvironmentFault: it is taken, not allowed, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise EnvironmentFault(f"cannot listen on {host}: {error}", fix="change `listen`") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise EnvironmentFault(
            f"cannot listen on {host}:{port}: {error.strerror}", fix="stop what uses it, or change `listen`"
        ) from error
    return sock


def config_of(app: Any, limits: Limits) -> uvicorn.Config:
    """How uvicorn serves the application; what clients may send is guarded while it still comes."""

    class Limited(GuardedProtocol):
        head_bytes = int(limits.headers_kb * 1000)
        head_s = limits.body_s

    return uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,  # answers have ended by then, or had their time
    )


class Server(uvicorn.Server):
    """Serves until a signal: the first lets what is under way end, the second ends it.

    Attributes:
        stopped_by: the first signal; None before.
    """

    def __init__(self, app: App) -> None:
        super().__init__(config_of(app, app.core.settings.limits))
        self._app = app
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.should_exit = True
        elif self.stopped_by is None:
            self._loop.call_soon_threadsafe(self.stop)
        else:
            self._loop.call_soon_threadsafe(self._app.core.running.stop)
        self.stopped_by = self.stopped_by or sig

    def stop(self) -> None:
        """Let nobody in any more; end when all have been answered."""
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._drained())

    async def _drained(self) -> None:
        await self._app.drain()
        self.should_exit = True


class GuardedProtocol(HttpToolsProtocol):
    """Refuses a request whose headers are too large, or too slow, while they still come."""

    head_bytes: int
    head_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = True
        self._head = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(self.head_s, self._too_slow)

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
        if self._head > self.head_bytes:
            self._refuse(Refusal(431, f"the headers are larger than {self.head_bytes / 1000:g} kB"))
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._too_slow)

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
        self._refuse(Refusal(408, f"the headers did not come within {self.head_s:g} s"))

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


def run(app: App, sock: socket.socket) -> int:
    """Serve on `sock` until a signal; which one that was."""
    server = Server(app)
    server.run(sockets=[sock])
    return server.stopped_by or signal.SIGTERM
