"""Gateways for tests: over a real socket in a thread of their own, or called as an application within the test."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llmops.serve.app import App, build
from llmops.serve.entry import Captured, Entry
from llmops.serve.hooks import Anybody, Ask, Caller, Choice, Everybody, Feedback, Gatekeeper, Hold, Now, Policy
from llmops.serve.refusal import Refusal
from llmops.serve.server import Server, config_of
from llmops.serve.settings import BySize, Cascade, Direct, Gateway
from llmops.serve.targets import Replica, Target, Targets
from tests.patience import HANG_S
from tests.prompt_server import Prompt
from tests.serve.fake_engine import Behaviour, FakeEngine

Value = TypeVar("Value")


class PromptGateway(Prompt, Server):
    pass


class Notebook:
    """A recorder and metrics in one, that keep what they are told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.observed: list[Entry] = []
        self.captured: list[tuple[Captured, bool]] = []
        self.given: list[Feedback] = []

    def record(self, entry: Entry) -> None:
        self.entries.append(entry)

    def observe(self, entry: Entry) -> None:
        self.observed.append(entry)

    def capture(self, captured: Captured, *, redact: bool) -> None:
        self.captured.append((captured, redact))

    def feedback(self, given: Feedback) -> None:
        self.given.append(given)

    def text(self, now: Now) -> bytes:
        return f"under_way {now.under_way}\n".encode()


class Strict:
    """Lets in whoever says `Bearer good`, to every route but `secret`, and only while there are tokens left."""

    def __init__(self) -> None:
        self.settled: list[tuple[int | None, float | None]] = []
        self.left = True

    def who(self, secret: str | None) -> Caller:
        if secret != "good":
            raise Refusal(401, "there is no such key", code="invalid_api_key")
        return Anybody(tags=("team-a",))

    def may(self, caller: Caller, route: str) -> bool:
        return route != "secret"

    def reserve(self, caller: Caller, tokens: int) -> Hold:
        if not self.left:
            raise Refusal(429, "60 requests a minute", code="rate_limit_exceeded", retry_after=12.3)
        return self

    def settle(self, tokens: int | None, usd: float | None) -> None:
        self.settled.append((tokens, usd))


class Plainly:
    """A policy that takes the first engine a route names."""

    def choose(self, ask: Ask) -> Choice:
        route = ask.settings
        shadow = route.shadow.to if route.shadow else None
        if isinstance(route, Direct):
            return Choice(route.engine, "the only one", session=ask.headers.get("x-session-id"), shadow=shadow)
        assert isinstance(route, BySize | Cascade)
        larger = route.large if isinstance(route, Cascade) else None
        return Choice(route.small, "short", larger=larger, shadow=shadow)

    def sure(self, ask: Ask, logprobs: Sequence[Sequence[float]]) -> bool:
        return bool(logprobs) and all(one and min(one) > -1 for one in logprobs)


def settings(routes: Mapping[str, Any] | None = None, **others: Any) -> Gateway:
    """A gateway's file with two engines, `small` and `large`; by default one route `m` to the small one."""
    engines = {"small": {"model": "./small"}, "large": {"model": "./large"}}
    routes = routes or {"m": {"policy": "direct", "engine": "small"}}
    return Gateway.model_validate({"listen": "127.0.0.1:0", "engines": engines, "routes": routes, **others})


@dataclass
class Running:
    """A gateway and its engines, in one event loop in one thread."""

    app: App
    notes: Notebook
    targets: Targets
    engines: dict[str, list[FakeEngine]]
    loop: asyncio.AbstractEventLoop
    url: str = ""
    server: Server | None = None

    def on_loop(self, work: Awaitable[Value], seconds: float = HANG_S) -> Value:
        async def run() -> Value:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(seconds)


def target(engine: str, url: str, number: int = 0, **others: Any) -> Target:
    return Target(Replica(engine, number, url, state="ready"), f"served-{engine}", f"{engine}/1", **others)


def app_of(
    gateway: Gateway,
    targets: Targets,
    notes: Notebook,
    *,
    gatekeeper: Gatekeeper | None = None,
    policy: Policy | None = None,
) -> App:
    return build(
        gateway,
        targets,
        gatekeeper=gatekeeper or Everybody(),
        policy=policy or Plainly(),
        recorder=notes,
        metrics=notes,
    )


@contextmanager
def running(
    behaviours: Mapping[str, Sequence[Behaviour]],
    gateway: Gateway | None = None,
    *,
    addresses: Mapping[str, Sequence[Target]] | None = None,
    gatekeeper: Gatekeeper | None = None,
    policy: Policy | None = None,
) -> Iterator[Running]:
    """A gateway on a free port of this machine, in front of engines that behave as given, one replica each.

    Args:
        addresses: engines that run elsewhere.
    """
    targets, notes = Targets(), Notebook()
    app = app_of(gateway or settings(), targets, notes, gatekeeper=gatekeeper, policy=policy)
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    started = threading.Event()
    made: list[Running] = []
    failed: list[BaseException] = []

    async def live() -> None:
        engines = {
            name: [await FakeEngine(behave).start() for behave in several] for name, several in behaviours.items()
        }
        for name, fakes in engines.items():
            targets.set(name, [target(name, fake.url, number) for number, fake in enumerate(fakes)])
        for name, others in (addresses or {}).items():
            targets.set(name, others)
        server = PromptGateway(config_of(app, lambda: app.core.settings.limits))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        made.append(Running(app, notes, targets, engines, asyncio.get_running_loop(), url, server))
        started.set()  # who connects waits in the socket's queue until it serves
        await server.serve(sockets=[sock])
        for fakes in engines.values():
            for fake in fakes:
                await fake.stop()

    def thread() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            failed.append(error)
            started.set()

    worker = threading.Thread(target=thread)
    worker.start()
    assert started.wait(HANG_S)
    if failed:
        raise failed[0]
    try:
        yield made[0]
    finally:
        made[0].loop.call_soon_threadsafe(_stop, made[0])
        worker.join(HANG_S)
    if failed:
        raise failed[0]


def _stop(one: Running) -> None:
    assert one.server is not None
    one.server.should_exit = True
    one.app.core.running.stop()


@dataclass
class Called:
    """What an application answered within the test."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def call(
    app: Callable[..., Awaitable[None]],
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
) -> Called:
    """One request to an ASGI application, without a socket."""
    called = Called()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            called.status = message["status"]
            called.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            called.body += message.get("body", b"")

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return called
