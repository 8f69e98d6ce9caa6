"""The gateway with all its parts, as its file asks for them: who is let in, what answers, what is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmops.serve.app import build
from llmops.serve.books import Books
from llmops.serve.routing.policy import Routing, routers_of
from llmops.serve.settings import Gateway
from llmops.serve.targets import Targets
from llmops.workspace import Workspace


class Assembled:
    """The application and what it is made of."""

    def __init__(self, settings: Gateway, targets: Targets, books: Books) -> None:
        self._targets = targets
        self._books = books
        self._routing = Routing(routers_of(settings), targets)
        gatekeeper = books.gatekeeper(settings)
        books.follow(gatekeeper)
        self._app = build(
            settings,
            targets,
            gatekeeper=gatekeeper,
            policy=self._routing,
            recorder=books,
            metrics=books.metrics,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def prepare(self, settings: Gateway) -> Callable[[], None]:
        """What makes these settings hold for new requests; all that can be refused is refused before, and changes
        nothing.

        Raises:
            LlmopsError: keys or a router cannot be read.
        """
        routing = Routing(routers_of(settings), self._targets, sessions=self._routing.sessions)
        gatekeeper = self._books.gatekeeper(settings)

        def apply() -> None:
            self._routing = routing
            self._books.follow(gatekeeper)
            self._app.reload(settings, gatekeeper=gatekeeper, policy=routing)

        return apply

    async def drain(self) -> int:
        """Refuse what is new, wait for what is under way; how many were cut short."""
        return await self._app.drain()


@contextmanager
def assembled(settings: Gateway, targets: Targets, *, workspace: Workspace) -> Iterator[Assembled]:
    """The gateway; what it wrote down is on disk when it is left.

    Raises:
        LlmopsError: keys or a router cannot be read, or a package is missing.
    """
    books = Books(settings, workspace=workspace)
    try:
        made = Assembled(settings, targets, books)
        books.start()
        yield made
    finally:
        books.close()
