"""The gateway put together: the application with the keys, routing, ledger and metrics that its file asks for."""

from __future__ import annotations

from typing import Any

from llmops.serve.app import build
from llmops.serve.books import Books
from llmops.serve.routing.policy import Routing, routers_of
from llmops.serve.settings import Gateway
from llmops.serve.targets import Targets
from llmops.workspace import Workspace


class Assembly:
    """One gateway's application, and all that lives as long as it does."""

    def __init__(self, settings: Gateway, targets: Targets, *, workspace: Workspace) -> None:
        """Read the keys and the routers that `settings` name; nothing is written before `start`.

        Raises:
            LlmopsError: one of those files cannot be read, or a package is missing.
        """
        self._targets = targets
        self._books = Books(settings, workspace=workspace)
        self._routing = Routing(routers_of(settings), targets)
        self.app = build(
            settings,
            targets,
            gatekeeper=self._books.gatekeeper(settings),
            policy=self._routing,
            recorder=self._books,
            metrics=self._books.metrics,
        )

    def start(self) -> None:
        """Begin to keep the ledger."""
        self._books.start()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    def reload(self, settings: Gateway) -> None:
        """From now on new requests see these; what keys took and where conversations are is not forgotten.

        Raises:
            LlmopsError: a file that they name cannot be read; nothing has changed then.
        """
        routing = Routing(routers_of(settings), self._targets, sessions=self._routing.sessions)
        self.app.reload(settings, gatekeeper=self._books.gatekeeper(settings), policy=routing)
        self._routing = routing

    async def drain(self) -> int:
        """Refuse what is new, wait for what is under way; how many were cut short."""
        return await self.app.drain()

    def close(self) -> None:
        """Write what the ledger still holds."""
        self._books.close()
