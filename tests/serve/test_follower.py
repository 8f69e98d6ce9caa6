"""A champion that changes reaches its engine within seconds; what may not be served leaves the old one serving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmops.registry import store
from llmops.registry.connection import connect
from llmops.registry.promote import rollback
from llmops.registry.store import ModelVersion
from llmops.serve.follower import EVERY_S, Follower
from llmops.serve.settings import LocalEngine
from llmops.serve.status import status
from llmops.workspace import Workspace
from tests.listener import Heard
from tests.registry import registrations
from tests.serve.stand_in import MakeModel, Vllm
from tests.serve.test_fleet import ask, fleet_of, run, until

Register = Callable[..., ModelVersion]


@pytest.fixture
def register(here: Workspace, make_workspace: Callable[[Path], Workspace], monkeypatch: pytest.MonkeyPatch) -> Register:
    """The next version of `m` from a folder, judged, approved and promoted."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    make_workspace(here.home)

    def next_version(folder: Path) -> ModelVersion:
        one = registrations.register(folder, here)
        registrations.champion(one, here)
        return one

    return next_version


def test_a_promotion_and_a_rollback_reach_the_engine_in_seconds(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel, register: Register
) -> None:
    base = make_model("base")
    first, second = (make_model(name, base=base, value=v) for name, v in (("one", 2.0), ("two", 3.0)))
    register(first)

    async def scenario() -> None:
        settings = vllm.gateway({"x": {"model": "models:/m@champion"}})
        async with fleet_of(settings, here, heard) as fleet, Follower(fleet, every_s=0.2):
            assert await fleet.ready()
            assert fleet.targets.of("x")[0].version == "models:/m/1"
            await asyncio.to_thread(register, second)
            took = [await waited(lambda: fleet.targets.ready("x")[0].version == "models:/m/2")]
            (target,) = fleet.targets.of("x")
            assert target.model in await ask(target)
            await asyncio.to_thread(rollback, "m", "ann", workspace=here)
            took.append(await waited(lambda: fleet.targets.ready("x")[0].version == "models:/m/1"))
            # The quicker of the two, since others use this machine.
            assert min(took) < 10 - EVERY_S

    run(scenario())
    assert len(vllm.starts()) == 1


async def waited(condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    await until(condition)
    return time.monotonic() - began


def test_a_champion_that_may_not_be_served_leaves_the_old_one_serving_and_is_told(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel, register: Register
) -> None:
    base = make_model("base")
    register(make_model("one", base=base, value=2.0))
    bad = make_model("two", base=base, value=3.0)

    async def scenario() -> None:
        settings = vllm.gateway({"x": {"model": "models:/m@champion"}})
        async with fleet_of(settings, here, heard) as fleet, Follower(fleet, every_s=0.2):
            assert await fleet.ready()
            second = await asyncio.to_thread(register, bad)
            weights = store.place_of(here, str(second.digest)) / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
            await until(lambda: "x" in fleet.notes)
            assert "models:/m@champion is models:/m/2 now, which is not served: the bytes of" in fleet.notes["x"]
            assert fleet.targets.ready("x")[0].version == "models:/m/1"
            assert status(fleet)["engines"][0]["note"] == fleet.notes["x"]

    run(scenario())


def test_an_engine_that_is_reloaded_away_while_it_is_looked_after_is_left_alone(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel, register: Register
) -> None:
    base = make_model("base")
    register(make_model("one", base=base, value=2.0))
    alias, folder = {"model": "models:/m@champion"}, {"model": str(base)}

    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"x": alias, "y": folder}), here, heard) as fleet:
            assert await fleet.ready()
            engine = fleet.settings.engines["x"]
            assert isinstance(engine, LocalEngine)
            follower = Follower(fleet)
            for others in ({"y": folder}, {"x": folder, "y": folder}):
                await fleet.reload(vllm.gateway(others))
                await follower._look("x", engine, thorough=True)
                assert fleet.notes == {}

    run(scenario())


def test_a_version_that_is_gone_from_the_registry_goes_on_and_that_is_told(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel, register: Register
) -> None:
    register(make_model("one", base=make_model("base"), value=2.0))

    async def scenario() -> None:
        settings = vllm.gateway({"x": {"model": "models:/m/1"}})
        async with fleet_of(settings, here, heard) as fleet, Follower(fleet, every_s=0.2, thorough_s=0.2):
            assert await fleet.ready()
            connect(here.tracking_uri).delete_model_version("m", "1")
            await until(lambda: "x" in fleet.notes)
            assert "may not be served any more (the model 'm' has no version); what runs goes on" in fleet.notes["x"]
            (target,) = fleet.targets.ready("x")
            assert target.model in await ask(target)

    run(scenario())
