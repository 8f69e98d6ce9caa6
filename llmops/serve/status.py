"""What the fleet is doing, as plain data for people and programs."""

from __future__ import annotations

from typing import Any

from llmops.serve.fleet import Fleet
from llmops.serve.keeper import Keeper
from llmops.serve.settings import LocalEngine


def status(fleet: Fleet) -> dict[str, Any]:
    """Engines with their replicas: states, versions, requests under way, and why something is not as wanted."""
    return {"engines": [_engine(fleet, name) for name in fleet.settings.engines]}


def _engine(fleet: Fleet, name: str) -> dict[str, Any]:
    settings = fleet.settings.engines[name]
    targets = fleet.targets.of(name)
    first = targets[0] if targets else None
    serving = fleet.serving.get(name)
    wanted = fleet.wanted.get(name)
    keepers = serving[0].keepers if serving is not None else []
    by_replica = {id(keeper.replica): keeper for keeper in keepers}
    notes = [fleet.notes[name]] if name in fleet.notes else []
    if wanted is not None and serving is not None and wanted != serving[1]:
        why = {keeper.problems[wanted.name] for keeper in keepers if wanted.name in keeper.problems}
        notes += sorted(why) or [f"{wanted.version} is on its way"]
    return {
        "engine": name,
        "model": settings.model,
        "version": first.version if first else None,
        "digest": first.digest if first else None,
        "state": _state([target.replica.state for target in targets]),
        "quantization": settings.quantization if isinstance(settings, LocalEngine) else None,
        "shared_with": [other for other in serving[0].server.members if other != name] if serving else [],
        "note": "; ".join(notes),
        "replicas": [
            {
                "replica": target.replica.number,
                "state": target.replica.state,
                "reason": target.replica.reason,
                "url": target.replica.url,
                "requests": target.use.in_flight,
                "requests_of_server": target.replica.in_flight,
                **_process(by_replica.get(id(target.replica))),
            }
            for target in targets
        ],
    }


def _process(keeper: Keeper | None) -> dict[str, Any]:
    if keeper is None:
        return {}
    return {
        "pid": keeper.pid,
        "starts": keeper.starts,
        "gpus": list(keeper.place.gpus),
        "log": str(keeper.log),
    }


def _state(states: list[str]) -> str:
    """Of all replicas in one word: the best of them, since one that is ready serves."""
    return next((one for one in ("ready", "starting", "waiting", "failed", "stopped") if one in states), "stopped")
