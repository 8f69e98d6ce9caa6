"""Follows aliases: an engine of `models:/x@champion` serves a new champion soon after the decision."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Self

from llmops.errors import LlmopsError
from llmops.registry.admission import aliased
from llmops.registry.reference import registry_name
from llmops.serve.fleet import Fleet
from llmops.serve.served import original
from llmops.serve.settings import LocalEngine

EVERY_S = 3.0
"""Seconds between two looks at the decisions, which cost some milliseconds."""
THOROUGH_S = 60.0
"""Seconds between two looks at the registry itself: aliases that no decision gives, versions that are gone."""


class Follower:
    """Looks while it is entered; what it finds wrong is told by the fleet's notes, and what serves goes on."""

    def __init__(self, fleet: Fleet, *, every_s: float = EVERY_S, thorough_s: float = THOROUGH_S) -> None:
        self._fleet = fleet
        self._every_s, self._thorough_s = every_s, thorough_s
        self._refused: dict[str, tuple[str, float]] = {}
        self._thorough_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look_always(), name="aliases")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _look_always(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            thorough = time.monotonic() - self._thorough_at >= self._thorough_s
            if thorough:
                self._thorough_at = time.monotonic()
            for name, engine in list(self._fleet.settings.engines.items()):
                if isinstance(engine, LocalEngine) and registry_name(engine.model) is not None:
                    await self._look(name, engine, thorough=thorough)

    async def _look(self, name: str, engine: LocalEngine, *, thorough: bool) -> None:
        fleet = self._fleet
        try:
            number = await asyncio.to_thread(aliased, engine.model, workspace=fleet.workspace)
            parts = registry_name(engine.model)
            assert parts is not None
            named = f"models:/{parts[0]}/{number}" if number is not None else None
            if named is None and thorough:
                named = await original(engine, workspace=fleet.workspace)
            elif thorough:
                await original(engine, workspace=fleet.workspace)
        except LlmopsError as error:
            self._note(name, f"{engine.model} may not be served any more ({error.problem}); what runs goes on")
            return
        wanted = fleet.wanted.get(name)
        if named is None or wanted is None or fleet.settings.engines.get(name) != engine:
            return  # the last two: it was reloaded meanwhile
        if named == wanted.original:
            if thorough or name in self._refused:
                self._refused.pop(name, None)
                fleet.notes.pop(name, None)
            return
        refused, when = self._refused.get(name, ("", 0.0))
        if refused == named and time.monotonic() - when < 10 * self._every_s:
            return
        try:
            await fleet.follow(name)
        except LlmopsError as error:
            self._refused[name] = named, time.monotonic()
            self._note(name, f"{engine.model} is {named} now, which is not served: {error.problem}")
        else:
            self._refused.pop(name, None)
            fleet.notes.pop(name, None)

    def _note(self, name: str, note: str) -> None:
        if self._fleet.notes.get(name) != note:
            self._fleet.notes[name] = note
            self._fleet.listener.say(f"engine {name}: {note}")
