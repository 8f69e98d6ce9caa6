"""Keeps one replica of a server alive: started, made ready, watched, started again, given up."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from llmops.events import Listener
from llmops.files import folder_digest
from llmops.serve import server_log
from llmops.serve.command import Launch, arguments, environment
from llmops.serve.layout import Server
from llmops.serve.places import Place
from llmops.serve.restarts import Restarts
from llmops.serve.server_process import Refused, ServerProcess, free_port
from llmops.serve.targets import Replica, State

HEALTH_S = 2.0
"""Seconds between two questions after a server's health."""
_DEAF = 3
"""Questions without an answer after which a server is ended, to be started again."""
_LOOK_S = 0.2
_LAST_WORDS_S = 10.0


class Keeper:
    """One replica. It should serve the members of `server`, and others until told to forget them; `loaded` it does."""

    def __init__(
        self,
        server: Server,
        number: int,
        options: Sequence[str],
        *,
        logs: Path,
        visible: Sequence[str],
        listener: Listener,
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            changed: is called whenever state or `loaded` may be others than before.
        """
        self.replica = Replica(server.name, number, url="")
        self.server = server
        self.place = Place()
        self.loaded: set[str] = set()
        self.problems: dict[str, str] = {}
        """By the name of a model: why it could not be loaded."""
        self.starts = 0
        # Two servers of one engine run at the same time while it moves from one model to another.
        self.log = logs / f"{server.name.replace('/', '_')}-{server.key[:8]}-{number}.log"
        self._options, self._visible = options, visible
        self._listener, self._changed = listener, changed
        self._restarts = Restarts(server.settings.restart)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: ServerProcess | None = None
        self._models = {one.name: one for one in server.members.values()}

    @property
    def called(self) -> str:
        """For people."""
        many = f" replica {self.replica.number}" if self.server.settings.replicas > 1 else ""
        return f"{self.replica.engine}{many}"

    @property
    def pid(self) -> int | None:
        """Of the guard of the process that runs now."""
        return self._process.pid if self._process is not None and not self._process.over else None

    def begin(self, place: Place) -> None:
        """Start it there, in the background."""
        self.place = place
        self._set_price()
        self._task = asyncio.create_task(self._keep(), name=f"engine {self.called}")

    def serve(self, server: Server) -> None:
        """From now on it should serve the members of `server`, which its process can; what is new is loaded."""
        self.server = server
        self._restarts.settings = server.settings.restart
        self._set_price()
        self._models |= {one.name: one for one in server.members.values()}
        if not self.loaded.issuperset(self._models):
            self._wake.set()

    def keep_only(self, names: Collection[str]) -> None:
        """Take all other adapters from it: nobody uses them any more."""
        if gone := self._models.keys() - names:
            for name in gone:
                del self._models[name]
                self.problems.pop(name, None)
            self._wake.set()

    def begin_again(self) -> None:
        """Start one that was given up."""
        if self.replica.state == "failed":
            self._restarts = Restarts(self.server.settings.restart)
            self.begin(self.place)

    def _set_price(self) -> None:
        price = self.server.settings.usd_per_gpu_hour
        self.replica.usd_per_hour = None if price is None else price * (len(self.place.gpus) or 1)

    async def stop(self) -> None:
        """End it; nothing of it is left then."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._end_process()
        self._state("stopped")

    async def _keep(self) -> None:
        while True:
            self._state("starting")
            began = time.monotonic()
            try:
                reason = await self._live()
            finally:
                ready_s = time.monotonic() - began if self.replica.state == "ready" else 0.0
                # Ending takes seconds, in which nobody should ask it.
                self.replica.state = "waiting"
                await self._end_process()
            wait = self._restarts.after_end(time.monotonic(), ran_s=ready_s)
            if wait is None:
                ends = self._restarts.ends
                self._state("failed", f"given up after {ends} end{'s' * (ends > 1)}: {reason}; its log is {self.log}")
                return
            self._state("waiting", f"{reason}; starts again in {wait:g} s")
            await asyncio.sleep(wait)

    async def _live(self) -> str:
        """One life of the process; returns why it ended."""
        try:
            if self.starts and (problem := await asyncio.to_thread(self._other_bytes)):
                return problem
            self._process = await self._start()
        except OSError as error:
            return f"it cannot be started: {error.strerror or error}"
        self.replica.url, self.replica.key = self._process.url, self._process.launch.key
        ended = asyncio.create_task(self._process.ended())
        life = asyncio.create_task(self._life(self._process))
        try:
            await asyncio.wait({ended, life}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return server_log.why(self._last_lines(self._process), ended.result())
            return life.result()
        finally:
            for task in (ended, life):
                task.cancel()
            await asyncio.gather(ended, life, return_exceptions=True)

    def _other_bytes(self) -> str | None:
        """Why what would be loaded now is not what was admitted; all of it is read, as it was then."""
        first = self.server.first
        wanted = {first.base: first.base_digest} | {one.folder: one.digest for one in self._models.values()}
        for folder, digest in wanted.items():
            if not folder.is_dir():
                return f"its folder {folder} is gone"
            if folder_digest(folder) != digest:
                return f"the bytes in {folder} are not those that were admitted; `llmops serve reload` looks anew"
        return None

    async def _start(self) -> ServerProcess:
        self.starts += 1
        port, key = free_port(), secrets.token_urlsafe(24)
        # vLLM puts sockets there, and their paths have room for about 100 characters.
        scratch = Path(tempfile.mkdtemp(prefix="llmops-engine-", dir="/tmp"))
        command = arguments(self.server, self.place, self._options, port=port)
        variables = environment(self.server, self.place, scratch, key=key, visible=self._visible)
        launch = Launch(command, variables, scratch, self.log, port, key)
        try:
            return await ServerProcess.start(launch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    async def _life(self, process: ServerProcess) -> str:
        """From the start to the first reason to end it."""
        progress = asyncio.create_task(self._tell_progress(process))
        try:
            while not await process.healthy():
                if time.monotonic() > self._ready_until(process):
                    why = server_log.why(self._last_lines(process), None)
                    return f"not ready within {self.server.settings.ready_timeout_s:g} s: {why}"
                await asyncio.sleep(_LOOK_S)
        finally:
            progress.cancel()
        pooling = self.server.settings.vllm.get("runner") == "pooling"
        try:
            async with asyncio.timeout(self._ready_until(process) - time.monotonic()):
                await process.generate(self.server.first.base_name, pooling=pooling)
            self.loaded.add(self.server.first.base_name)
        except Refused as error:
            if not await process.healthy():
                await asyncio.sleep(_LAST_WORDS_S)  # it is ending, and its log will say why
            return str(error)
        except TimeoutError:
            return f"no answer within {self.server.settings.ready_timeout_s:g} s of its start"
        await self._load(process)
        if not self.loaded & self._models.keys():
            return "; ".join(sorted(self.problems.values()))
        self._listener.say(f"engine {self.called}: ready after {time.monotonic() - process.started:.1f} s")
        self._state("ready")
        return await self._watch(process)

    def _ready_until(self, process: ServerProcess) -> float:
        return process.started + self.server.settings.ready_timeout_s

    async def _watch(self, process: ServerProcess) -> str:
        deaf = 0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), HEALTH_S)
            if self._wake.is_set():
                await self._load(process)
                await self._unload(process)
                continue
            deaf = 0 if await process.healthy() else deaf + 1
            if deaf >= _DEAF:
                why = server_log.why(self._last_lines(process), None)
                return f"{deaf} health checks in a row went unanswered: {why}"

    async def _load(self, process: ServerProcess) -> None:
        """Load and try every adapter that it should serve and does not."""
        self._wake.clear()
        for one in list(self._models.values()):
            if one.name in self.loaded or one.rank is None:
                continue
            try:
                await process.load(one.name, str(one.folder))
                await process.generate(one.name)
            except Refused as error:
                with suppress(Refused):
                    await process.unload(one.name)
                self.problems[one.name] = f"{one.version} cannot be loaded: {error}"
                self._listener.say(f"engine {self.called}: {self.problems[one.name]}")
            else:
                self.problems.pop(one.name, None)
                self.loaded.add(one.name)
            self._changed()

    async def _unload(self, process: ServerProcess) -> None:
        for name in self.loaded - self._models.keys() - {self.server.first.base_name}:
            with suppress(Refused):  # it has room for others all the same
                await process.unload(name)
            self.loaded.discard(name)
        self._changed()

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        self.loaded.clear()
        if process is not None:
            await process.end()

    async def _tell_progress(self, process: ServerProcess) -> None:
        """Say what the log says of the start, each thing once."""
        said: set[str] = set()
        place = process.log_start
        while True:
            await asyncio.sleep(_LOOK_S)
            lines, place = server_log.new_lines(process.launch.log, place)
            for line in lines:
                phase = server_log.phase(line)
                if phase and phase not in said:
                    said.add(phase)
                    self.replica.reason = phase
                    self._listener.say(f"engine {self.called}: {phase}")

    def _last_lines(self, process: ServerProcess) -> list[str]:
        return server_log.tail(process.launch.log, start=process.log_start)

    def _state(self, state: State, reason: str = "") -> None:
        if reason:
            self._listener.say(f"engine {self.called}: {state}: {reason}")
        self.replica.state, self.replica.reason = state, reason
        self._changed()
