"""Servers that somebody else runs: asked every few seconds whether they are there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import aiohttp

from llmops.errors import EnvironmentFault
from llmops.events import Listener
from llmops.serve.settings import RemoteEngine
from llmops.serve.targets import Replica, Target

CHECK_S = 5.0
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Remote:
    """One of them."""

    def __init__(
        self, name: str, settings: RemoteEngine, *, listener: Listener, changed: Callable[[], None] = lambda: None
    ) -> None:
        """
        Raises:
            EnvironmentFault: the variable that should hold its key is not set.
        """
        key = None
        if settings.api_key_env is not None and not (key := os.environ.get(settings.api_key_env)):
            raise EnvironmentFault(
                f"engine {name!r} wants its key in {settings.api_key_env}, which is not set",
                fix=f"export {settings.api_key_env}=…, or correct `api_key_env`",
            )
        self.settings = settings
        url = settings.url.rstrip("/").removesuffix("/v1")
        self.replica = Replica(name, 0, url=url, key=key, usd_per_hour=settings.usd_per_gpu_hour)
        self.target = Target(self.replica, settings.model, settings.model, max_length=settings.max_length)
        self._listener, self._changed = listener, changed
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Ask after it from now on."""
        self._task = asyncio.create_task(self._watch(), name=f"engine {self.replica.engine}")

    def could_take(self, settings: RemoteEngine) -> bool:
        """Whether it is the same model of the same server, whatever it costs."""
        return settings == self.settings.model_copy(update={"usd_per_gpu_hour": settings.usd_per_gpu_hour})

    def serve(self, settings: RemoteEngine) -> None:
        """What `could_take` allows: another price from now on."""
        self.settings = settings
        self.replica.usd_per_hour = settings.usd_per_gpu_hour

    async def stop(self) -> None:
        """Ask no more; what runs there goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.replica.state = "stopped"

    async def _watch(self) -> None:
        headers = {"Authorization": f"Bearer {self.replica.key}"} if self.replica.key else {}
        async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as session:
            while True:
                before = self.replica.state
                self.replica.reason = await self._problem(session)
                self.replica.state = "waiting" if self.replica.reason else "ready"
                if self.replica.state != before:
                    why = f": {self.replica.reason}" if self.replica.reason else ""
                    self._listener.say(f"engine {self.replica.engine}: {self.replica.state}{why}")
                    self._changed()
                await asyncio.sleep(CHECK_S)

    async def _problem(self, session: aiohttp.ClientSession) -> str:
        """Why it cannot be asked; empty where it can."""
        try:
            async with session.get(f"{self.replica.url}/v1/models") as answer:
                if answer.status == 200:
                    names = [one.get("id") for one in (await answer.json(content_type=None)).get("data", [])]
                    if self.settings.model not in names:
                        listed = ", ".join(str(name) for name in names[:5]) or "none"
                        return f"{self.settings.url} has no model {self.settings.model!r}, it has: {listed}"
                    return ""
                if answer.status in {404, 405}:  # not every server lists its models; it answers, that is enough
                    return ""
                return f"{self.settings.url}/models answers {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError) as error:
            return f"{self.settings.url} cannot be asked: {error or type(error).__name__}"
