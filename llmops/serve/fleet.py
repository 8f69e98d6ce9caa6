"""All engines of a gateway.yaml: what should run is worked out, what does run follows it, and `Targets` follow that.

A change (a reload, an alias that moved) only says what is wanted. Requests go on to what serves now until what is
wanted is ready; then new ones go there, and what is left over is ended when its last request is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.events import Listener, Silent
from llmops.hardware import machine
from llmops.serve.layout import Server, could_take, servers
from llmops.serve.places import Places
from llmops.serve.remote import Remote
from llmops.serve.replicas import Replicas
from llmops.serve.served import Served, served
from llmops.serve.settings import Gateway, LocalEngine, RemoteEngine
from llmops.serve.targets import Target, Targets
from llmops.serve.vllm_options import arguments_of, check, interpreter, version_of
from llmops.workspace import Workspace

GRACE_S = 1.0
"""Seconds for which a target that was replaced is kept, for who read it just before and has not begun."""
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Replaced:
    """A model that new requests to an engine no longer go to, and some may be under way at."""

    running: Replicas
    model: Served
    targets: tuple[Target, ...]
    since: float

    @property
    def unused(self) -> bool:
        old = time.monotonic() - self.since >= GRACE_S
        return old and not any(target.use.in_flight for target in self.targets)


class Fleet:
    """Enter it to start all engines; what cannot be started at all is said before the first one is."""

    def __init__(
        self,
        settings: Gateway,
        targets: Targets,
        workspace: Workspace,
        listener: Listener | None = None,
        *,
        places: Places | None = None,
    ) -> None:
        """
        Args:
            places: GPUs or memory to use; None takes what this machine has free now.
        """
        self.settings = settings
        self.targets = targets
        self.workspace = workspace
        self.listener = listener or Silent()
        self.notes: dict[str, str] = {}
        """By engine: what its users should know although it serves."""
        self.wanted: dict[str, Served] = {}
        """By local engine: the model it should serve."""
        self.serving: dict[str, tuple[Replicas, Served]] = {}
        """By local engine: what new requests go to."""
        self.remotes: dict[str, Remote] = {}
        self.servers: list[Replicas] = []
        self._places = places
        self._by: dict[str, Replicas] = {}
        self._replaced: list[Replaced] = []
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None
        self._stops: set[asyncio.Task[None]] = set()
        self._told_to_wait: set[str] = set()

    async def __aenter__(self) -> Self:
        """
        Raises:
            LlmopsError: a model may not be served, an option is unknown, GPUs or memory are too few; nothing runs.
        """
        await self._change(self.settings, await self._look_up(self.settings))
        self._settling = asyncio.create_task(self._settle_always(), name="fleet")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        await asyncio.gather(*self._stops, return_exceptions=True)
        await asyncio.gather(
            *(running.stop() for running in self.servers), *(remote.stop() for remote in self.remotes.values())
        )
        for name in [*self.serving, *self.remotes]:
            self.targets.set(name, ())

    async def reload(self, settings: Gateway) -> None:
        """From now on serve these engines: what is new is started, what is gone ended, what is unchanged goes on.

        Raises:
            LlmopsError: as on entering; everything goes on as before.
        """
        async with self._changing:
            await self._change(settings, await self._look_up(settings))
            self.settings = settings
            for running in set(self._by.values()):
                for keeper in running.keepers:
                    keeper.begin_again()

    async def follow(self, engine: str) -> None:
        """Serve what the reference of `engine` names now, if it may be; else what it serves goes on.

        Raises:
            LlmopsError: it may not.
        """
        async with self._changing:
            settings = self.settings.engines.get(engine)
            if not isinstance(settings, LocalEngine):
                return
            model = await served(settings, workspace=self.workspace)
            self._say(engine, model)
            await self._change(self.settings, {**self.wanted, engine: model})

    async def watch(self) -> None:
        """Never returns; raises what must not happen inside."""
        assert self._settling is not None
        await asyncio.shield(self._settling)

    async def ready(self) -> bool:
        """Wait until each engine is ready or given up; whether all are ready."""
        while any(self._on_its_way(engine) for engine in self.settings.engines):
            await asyncio.sleep(_LOOK_S / 4)
        return all(self.targets.ready(engine) for engine in self.settings.engines)

    async def drain(self) -> int:
        """Wait until no request is under way, for `limits.drain_s` at most; how many still are."""
        until = time.monotonic() + self.settings.limits.drain_s
        while (left := self.in_flight) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S / 4)
        return left

    @property
    def in_flight(self) -> int:
        """Requests under way at all engines."""
        remote = sum(one.replica.in_flight for one in self.remotes.values())
        return remote + sum(running.in_flight for running in self.servers)

    async def _look_up(self, settings: Gateway) -> dict[str, Served]:
        """What each local engine serves; all refusals are told together.

        An engine that lives and whose settings are as before keeps what it has where that is refused now: a version
        that is gone from the registry must not keep others from being reloaded.
        """
        found: dict[str, Served] = {}
        refused: dict[str, LlmopsError] = {}
        for name, engine in _local(settings).items():
            as_before = name in self.wanted and self.settings.engines.get(name) == engine
            try:
                found[name] = await served(engine, workspace=self.workspace)
                self.notes.pop(name, None)
                if found[name] != self.wanted.get(name):
                    self._say(name, found[name])
            except LlmopsError as error:
                if as_before and not self._by[name].given_up:
                    found[name] = self.wanted[name]
                    self.notes[name] = f"{error.problem}; what runs goes on"
                else:
                    refused[name] = error
        if len(refused) == 1:
            ((name, only),) = refused.items()
            raise type(only)(f"engine {name!r}: {only.problem}", fix=only.fix)
        if refused:
            listed = "\n".join(f"  {name}: {one.problem}\n    → {one.fix}" for name, one in refused.items())
            raise InputError(f"{len(refused)} engines cannot be served:\n{listed}", fix="mend these, or leave them out")
        return found

    def _say(self, name: str, model: Served) -> None:
        for line in model.said:
            self.listener.say(f"engine {name}: {line}")

    async def _change(self, settings: Gateway, models: Mapping[str, Served]) -> None:
        """Make this what is wanted. All that can be refused is refused before anything changes."""
        if self._places is None:
            here = await asyncio.to_thread(machine)
            self._places = Places(here.gpus, here.free_memory_bytes)
        local = _local(settings)
        options = await asyncio.to_thread(self._options, local)
        plan = servers(local, models)
        taken = self._taken(plan)
        fresh = [server for number, server in enumerate(plan) if number not in taken]
        leaving = [one for one in self.servers if one not in taken.values()]
        # Whether all that is wanted fits once what is not wanted has gone.
        self._places.find(fresh, without=[place for one in leaving for place in one.places])
        elsewhere = {name: engine for name, engine in settings.engines.items() if isinstance(engine, RemoteEngine)}
        remotes = {name: self._remote(name, engine) for name, engine in elsewhere.items()}
        # Nothing below can be refused.
        self.wanted = dict(models)
        self._by = {}
        for number, server in enumerate(plan):
            running = taken.get(number) or self._new(server, options)
            running.serve(server)
            self._by |= dict.fromkeys(server.members, running)
        self._replace_remotes(remotes)
        for name, engine in elsewhere.items():
            remotes[name].serve(engine)
        for gone in [name for name in self.serving if name not in models]:
            self._retire(*self.serving.pop(gone), self.targets.of(gone))
            if gone not in remotes:
                self.targets.set(gone, ())
        self.notes = {name: note for name, note in self.notes.items() if name in settings.engines}
        self._settle()
        self._changed.set()  # what could not be done at once is tried again until it can

    def _taken(self, plan: Sequence[Server]) -> dict[int, Replicas]:
        """What runs, by the place in `plan` of the server it can be; first of all that of its own engines."""
        taken: dict[int, Replicas] = {}
        for own in (True, False):
            for number, server in enumerate(plan):
                free = [one for one in self._usable() if one not in taken.values()]
                fit = [one for one in free if could_take(one.server, server)]
                fit = [one for one in fit if one.server.name == server.name or not own]
                if fit and number not in taken:
                    taken[number] = fit[0]
        return taken

    def _options(self, engines: Mapping[str, LocalEngine]) -> dict[str, list[str]]:
        """The checked `vllm:` options of each engine."""
        found = {}
        for name, engine in engines.items():
            python = interpreter(engine.python)
            version = version_of(python)
            known = arguments_of(python, version, workspace=self.workspace) if engine.vllm else {}
            found[name] = check(engine.vllm, known, engine=name, version=version)
        return found

    def _usable(self) -> list[Replicas]:
        return [one for one in self.servers if not one.stopping]

    def _new(self, server: Server, options: Mapping[str, list[str]]) -> Replicas:
        assert self._places is not None
        running = Replicas(
            server,
            options[next(iter(server.members))],
            logs=self.workspace.folder("serve/logs"),
            visible=self._places.names(),
            listener=self.listener,
            changed=self._changed.set,
        )
        self.servers.append(running)
        return running

    def _remote(self, name: str, engine: RemoteEngine) -> Remote:
        known = self.remotes.get(name)
        if known is not None and known.could_take(engine):
            return known
        return Remote(name, engine, listener=self.listener, changed=self._changed.set)

    def _replace_remotes(self, remotes: dict[str, Remote]) -> None:
        for name, old in self.remotes.items():
            if remotes.get(name) is not old:
                self._in_background(old.stop())
                self.targets.set(name, ())
        for name, remote in remotes.items():
            if self.remotes.get(name) is not remote:
                remote.begin()
                self.targets.set(name, (remote.target,))
        self.remotes = remotes

    def _on_its_way(self, engine: str) -> bool:
        """Neither ready as wanted nor given up."""
        if engine in self.remotes:
            return self.remotes[engine].replica.state == "starting"
        running, model = self._by[engine], self.wanted[engine]
        if any(keeper.replica.state in {"starting", "waiting"} for keeper in running.keepers):
            return True
        lost = running.given_up or any(model.name in keeper.problems for keeper in running.keepers)
        return not lost and (self.serving.get(engine) != (running, model) or not running.has(model))

    async def _settle_always(self) -> None:
        while True:
            self._changed.clear()
            self._settle()
            busy = self._replaced or len(self.servers) > len(set(self._by.values())) or self._told_to_wait
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_S if busy else None)

    def _settle(self) -> None:
        """Let what runs follow what is wanted, as far as that can be done now."""
        self._start_waiting()
        for engine, model in self.wanted.items():
            running = self._by[engine]
            before = self.serving.get(engine)
            if before == (running, model):
                continue
            if before is not None and not before[0].given_up and not running.has(model):
                continue  # what serves goes on until the other is ready
            targets = running.targets(model)
            old = self.targets.of(engine)
            self.targets.set(engine, targets)
            self.serving[engine] = running, model
            if before is not None:
                self.listener.say(f"engine {engine}: new requests go to {model.version} ({model.digest[:12]})")
                self._retire(*before, old)
        self._drop_replaced()
        self._end_left_over()

    def _start_waiting(self) -> None:
        """Start every server that has no places yet and for which there are some."""
        assert self._places is not None
        for running in [one for one in self._usable() if not one.places and one in self._by.values()]:
            try:
                (found,) = self._places.find([running.server])
            except EnvironmentFault as error:
                if running.server.name not in self._told_to_wait:
                    self._told_to_wait.add(running.server.name)
                    self.listener.say(
                        f"engine {running.server.name}: there is no room for the new server beside the old one "
                        f"({error.problem}), so the old one ends first and requests wait meanwhile"
                    )
                self._make_room(running)
                continue
            self._told_to_wait.discard(running.server.name)
            self._places.take(found)
            running.begin(found)

    def _make_room(self, running: Replicas) -> None:
        """Send requests to a server that has not begun, so that the one they went to can end."""
        for engine, (old, model) in list(self.serving.items()):
            if old not in self._by.values() and self._by.get(engine) is running:
                targets = self.targets.of(engine)
                self.targets.set(engine, running.targets(self.wanted[engine]))
                self.serving[engine] = running, self.wanted[engine]
                self._retire(old, model, targets)

    def _retire(self, running: Replicas, model: Served, targets: tuple[Target, ...]) -> None:
        self._replaced.append(Replaced(running, model, targets, time.monotonic()))

    def _drop_replaced(self) -> None:
        """Take models that nobody uses any more from servers that go on."""
        self._replaced = [one for one in self._replaced if not one.unused]
        for running in self._usable():
            used = {self.wanted[engine].name for engine, by in self._by.items() if by is running}
            used |= {model.name for by, model in self.serving.values() if by is running}
            used |= {one.model.name for one in self._replaced if one.running is running}
            running.keep_only(used)

    def _end_left_over(self) -> None:
        """End servers that nothing wants, once no request is under way there."""
        needed = {*self._by.values(), *(one for one, _ in self.serving.values())}
        needed |= {one.running for one in self._replaced}
        for running in [one for one in self._usable() if one not in needed and not one.in_flight]:
            running.stopping = True
            self._in_background(self._stop(running))

    async def _stop(self, running: Replicas) -> None:
        assert self._places is not None
        await running.stop()
        self._places.give_back(running.places)
        self.servers.remove(running)
        self.listener.say(f"engine {running.server.name}: the server that nothing needs any more has ended")
        self._changed.set()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)


def _local(settings: Gateway) -> dict[str, LocalEngine]:
    return {name: engine for name, engine in settings.engines.items() if isinstance(engine, LocalEngine)}
