"""A server with all its replicas, on its way in, at work, or on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from llmops.events import Listener
from llmops.serve.keeper import Keeper
from llmops.serve.layout import Server
from llmops.serve.places import Place
from llmops.serve.served import Served
from llmops.serve.targets import Target


class Replicas:
    """Its replicas are there from the beginning; they are started once it has places."""

    def __init__(
        self,
        server: Server,
        options: Sequence[str],
        *,
        logs: Path,
        visible: Sequence[str],
        listener: Listener,
        changed: Callable[[], None],
    ) -> None:
        self.server = server
        self.places: list[Place] = []
        self.stopping = False
        self.keepers = [
            Keeper(server, number, options, logs=logs, visible=visible, listener=listener, changed=changed)
            for number in range(server.settings.replicas)
        ]

    def begin(self, places: Sequence[Place]) -> None:
        """Start every replica in its place."""
        self.places = list(places)
        for keeper, place in zip(self.keepers, places, strict=True):
            keeper.begin(place)

    def serve(self, server: Server) -> None:
        """What `could_take` allows: other members, price and patience from now on."""
        self.server = server
        for keeper in self.keepers:
            keeper.serve(server)

    def keep_only(self, models: Collection[str]) -> None:
        """Take all other adapters from it: nobody uses them any more."""
        for keeper in self.keepers:
            keeper.keep_only(models)

    async def stop(self) -> None:
        """End every replica; nothing of them is left then."""
        await asyncio.gather(*(keeper.stop() for keeper in self.keepers))

    def has(self, model: Served) -> bool:
        """Whether every replica that is ready serves `model`, and one is."""
        ready = [keeper for keeper in self.keepers if keeper.replica.state == "ready"]
        return bool(ready) and all(model.name in keeper.loaded for keeper in ready)

    @property
    def in_flight(self) -> int:
        return sum(keeper.replica.in_flight for keeper in self.keepers)

    @property
    def given_up(self) -> bool:
        return all(keeper.replica.state == "failed" for keeper in self.keepers)

    def targets(self, model: Served) -> tuple[Target, ...]:
        """Where requests for `model` go."""
        most = self.server.settings.max_length or model.footprint.context
        return tuple(
            Target(keeper.replica, model.name, model.version, model.digest, max_length=most) for keeper in self.keepers
        )
