"""Engines and gateway in one process, from a gateway.yaml to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from llmops.config import load
from llmops.errors import InputError, LlmopsError
from llmops.events import Listener
from llmops.listening import bound
from llmops.serve.control import Answer, listening, only_one
from llmops.serve.fleet import Fleet
from llmops.serve.follower import Follower
from llmops.serve.settings import Gateway
from llmops.serve.status import status
from llmops.serve.targets import Targets
from llmops.workspace import Workspace


class Application(Protocol):
    """The gateway's HTTP side."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def prepare(self, settings: Gateway) -> Callable[[], None]:
        """What makes these settings hold for new requests; raises LlmopsError where they cannot."""

    async def drain(self) -> int:
        """Refuse what is new, wait for what is under way; how many were cut short."""


Build = Callable[[Gateway, Targets], contextlib.AbstractContextManager[Application]]


def serve(file: Path, build: Build, *, workspace: Workspace, listener: Listener) -> None:
    """Serve what `file` says until SIGTERM or Ctrl-C; SIGHUP reads it again. Nothing is left running afterwards.

    Raises:
        LlmopsError: the file is wrong, the port is in use, a model may not be served, GPUs are too few; nothing was
            started then.
    """
    import uvloop

    settings = load(file, Gateway, what="gateway")
    targets = Targets()
    with only_one(workspace), bound(settings) as listening_socket, build(settings, targets) as app:
        fleet = Fleet(settings, targets, workspace, listener)
        uvloop.run(_serve(file, fleet, app, listening_socket, listener=listener))


async def _serve(
    file: Path, fleet: Fleet, app: Application, listening_socket: socket.socket, *, listener: Listener
) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    beginning = asyncio.current_task()
    assert beginning is not None
    # While models are looked up there is nothing to drain: whoever ends us then ends us at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, beginning.cancel)
    try:
        await fleet.__aenter__()
    except asyncio.CancelledError:
        listener.say("ended before any engine was started")
        return
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        service = Service(file, fleet, app, listening_socket, listener, ending)
        loop.add_signal_handler(signal.SIGHUP, service.hang_up)
        commands = {"status": service.state, "reload": service.reload, "drain": service.drain}
        async with Follower(fleet), listening(fleet.workspace, commands):
            await service.live()
    finally:
        await fleet.__aexit__(None, None, None)


class Service:
    """A gateway at work."""

    def __init__(
        self,
        file: Path,
        fleet: Fleet,
        app: Application,
        listening_socket: socket.socket,
        listener: Listener,
        ending: asyncio.Event,
    ) -> None:
        self.file = file
        self.fleet = fleet
        self.app = app
        self.listener = listener
        self.ending = ending
        self.refused = ""
        """Why the file was not taken when it was last read again."""
        self._reloading = asyncio.Lock()
        self._socket = listening_socket
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    async def state(self) -> Answer:
        known = {"pid": os.getpid(), "url": self.address, "file": str(self.file), "refused": self.refused}
        return {**known, "draining": self.ending.is_set(), **status(self.fleet)}

    async def reload(self) -> Answer:
        """Read the file again.

        Raises:
            LlmopsError: it cannot be used; everything goes on as before.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> Answer:
        try:
            fresh = load(self.file, Gateway, what="gateway")
            for name in ("listen", "ledger", "telemetry"):
                if getattr(fresh, name) != getattr(self.fleet.settings, name):
                    raise InputError(
                        f"`{name}` cannot be changed while it runs",
                        fix="set it back, or end the gateway and start it again",
                    )
            apply = self.app.prepare(fresh)
            had_keys = self.fleet.settings.keys is not None
            await self.fleet.reload(fresh)
            apply()
        except LlmopsError as error:
            self.refused = str(error)
            self.listener.say(f"{self.file} is not taken, everything goes on as before: {error}")
            raise
        self.refused = ""
        self.listener.say(f"{self.file} was read again")
        if had_keys:
            self._say_who_may_ask()
        return await self.state()

    def hang_up(self) -> None:
        """SIGHUP: read the file again, and tell nobody but the log."""

        async def quietly() -> None:
            with contextlib.suppress(LlmopsError):
                await self.reload()

        self._tasks.add(task := asyncio.create_task(quietly()))
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> Answer:
        """End, once what is under way has."""
        under_way = self.fleet.in_flight
        self.ending.set()
        return {"under_way": under_way}

    async def live(self) -> None:
        """Answer until `ending`, then drain."""
        from llmops.serve.server import Server, config_of, shorten_pauses

        shorten_pauses()
        server = Server(config_of(self.app, lambda: self.fleet.settings.limits))
        answering = asyncio.create_task(server.serve(sockets=[self._socket]))
        watching = asyncio.create_task(self.fleet.watch())
        ending = asyncio.create_task(self.ending.wait())
        starting = asyncio.create_task(self._announce())
        await asyncio.wait({answering, watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            drain_s = self.fleet.settings.limits.drain_s
            self.listener.say(f"ending: requests under way, which get up to {drain_s:g} s: {self.fleet.in_flight}")
            draining = asyncio.create_task(self.app.drain())
            # A second Ctrl-C cuts what is under way.
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, draining.cancel)
            await asyncio.wait({draining})
            if draining.cancelled() or draining.result():
                left = self.fleet.in_flight if draining.cancelled() else draining.result()
                self.listener.say(f"{left} requests were cut short")
        server.should_exit = True
        await answering
        for task in (watching, ending, starting):
            task.cancel()
        problems = await asyncio.gather(watching, ending, starting, return_exceptions=True)
        for problem in problems:
            if isinstance(problem, Exception):
                raise problem

    async def _announce(self) -> None:
        fleet = self.fleet
        self.listener.say(f"gateway on {self.address}; engines are starting")
        self._say_who_may_ask()
        if await fleet.ready():
            self.listener.say(f"ready: {', '.join(fleet.settings.routes)} on {self.address}")
        else:
            lacking = [name for name in fleet.settings.engines if not fleet.targets.ready(name)]
            self.listener.say(f"not ready: {', '.join(lacking)}; `llmops serve status` says why")

    def _say_who_may_ask(self) -> None:
        """Aloud where it is everybody; that it is nobody beyond this machine has been checked with the settings."""
        settings = self.fleet.settings
        if settings.keys is None:
            self.listener.say(
                f"no `keys`: everybody on this machine may ask, and nobody else, for it listens on {settings.host} only"
            )
