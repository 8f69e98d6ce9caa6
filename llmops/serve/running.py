"""The requests under way, and the end of them all: a drain lets them finish and lets no new ones in."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Stoppable(Protocol):
    def stop(self) -> None:
        """End at once, but tell the client."""


class Running:
    """Who is under way."""

    def __init__(self) -> None:
        self.draining = False
        self._under_way: set[Stoppable] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, one: Stoppable) -> None:
        self._under_way.add(one)
        self._idle.clear()

    def end(self, one: Stoppable) -> None:
        self._under_way.discard(one)
        if not self._under_way:
            self._idle.set()

    async def drain(self, seconds: float) -> int:
        """Let nobody in any more and wait until all are done, for `seconds` at most; then end those that are left.

        Returns:
            How many were ended.
        """
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
            return 0
        except TimeoutError:
            left = self.stop()
            await self._idle.wait()
            return left
        except asyncio.CancelledError:
            # Whoever waited has no more patience.
            self.stop()
            raise

    def stop(self) -> int:
        """End all that are under way; how many that are."""
        left = list(self._under_way)
        for one in left:
            one.stop()
        return len(left)
