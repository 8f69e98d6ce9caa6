"""A gateway's HTTP side for tests of what runs it: a stream on every path, which ends a while after it is drained."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmops.serve.run import serve
from llmops.serve.settings import Gateway
from llmops.serve.targets import Targets
from llmops.workspace import Workspace
from tests.listener import Heard


class Application:
    def __init__(self, settings: Gateway, targets: Targets) -> None:
        self.settings = settings
        self.targets = targets
        self.under_way = 0
        self.draining = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.under_way += 1
        last = 5
        while last:
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
            last -= self.draining
        self.under_way -= 1
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    def prepare(self, settings: Gateway) -> Callable[[], None]:
        return lambda: setattr(self, "settings", settings)

    async def drain(self) -> int:
        self.draining = True
        until = asyncio.get_running_loop().time() + self.settings.limits.drain_s
        while self.under_way and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        return self.under_way


@contextmanager
def application(settings: Gateway, targets: Targets) -> Iterator[Application]:
    yield Application(settings, targets)


class Loud(Heard):
    def say(self, line: str) -> None:
        print(line, flush=True)


if __name__ == "__main__":
    from llmops.errors import LlmopsError

    try:
        serve(Path(sys.argv[1]), application, workspace=Workspace.current(), listener=Loud())
    except LlmopsError as error:
        print(f"error: {error}", flush=True)
        sys.exit(error.exit_code)
