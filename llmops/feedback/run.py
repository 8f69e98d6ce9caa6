"""The rating service on a socket, from its settings to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmops.feedback.settings import FeedbackService
from llmops.listening import bound

if TYPE_CHECKING:
    from fastapi import FastAPI

_HEAD_BYTES = 32_000
"""Largest head of a request."""
_END_S = 10
"""Seconds that requests under way get."""


def serve(service: FeedbackService, build: Callable[[int], FastAPI], *, say: Callable[[str], None]) -> None:
    """Answer until SIGTERM or Ctrl-C; what is under way then is finished.

    Args:
        build: makes the application for the port that was taken.

    Raises:
        EnvironmentFault: the address is in use, or not to be had; nothing was opened then.
    """
    with bound(service) as listening:
        asyncio.run(_serve(build(listening.getsockname()[1]), listening, say=say))


async def _serve(app: FastAPI, listening: socket.socket, *, say: Callable[[str], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # ours are set below, and end the process with status 0

    config = uvicorn.Config(
        app,
        http="h11",  # the parser that bounds what comes before there is a request
        h11_max_incomplete_event_size=_HEAD_BYTES,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # the paths of invitations are secrets
        server_header=False,
        proxy_headers=False,  # the door believes those proxies alone that were named
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_END_S,
    )
    server = Server(config)
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not server.should_exit:
            say("ending: requests under way are finished")
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await server.serve(sockets=[listening])
