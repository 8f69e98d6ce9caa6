"""What a gateway.yaml asks for runs, comes back when it ends, and changes without a request noticing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.hardware import Gpu
from llmops.serve.fleet import Fleet
from llmops.serve.places import GIB, Places
from llmops.serve.settings import Gateway
from llmops.serve.status import status
from llmops.serve.targets import Target, Targets
from llmops.workspace import Workspace
from tests.listener import Heard
from tests.patience import HANG_S
from tests.serve.stand_in import MakeModel, Vllm

ROOM = 100 * GIB


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(4 * HANG_S):
            await work

    asyncio.run(bounded())


@asynccontextmanager
async def fleet_of(
    settings: Gateway, workspace: Workspace, heard: Heard, *, places: Places | None = None
) -> AsyncIterator[Fleet]:
    async with Fleet(settings, Targets(), workspace, heard, places=places or Places((), ROOM)) as fleet:
        yield fleet


async def until(condition: Callable[[], Any], *, seconds: float = HANG_S) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def ask(target: Target, **more: Any) -> str:
    """One request, counted as the gateway counts it."""
    target.use.in_flight += 1
    target.replica.in_flight += 1
    try:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {target.replica.key}"}) as session,
            session.post(
                f"{target.replica.url}/v1/completions", json={"model": target.model, "prompt": "a", **more}
            ) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.text()
    finally:
        target.use.in_flight -= 1
        target.replica.in_flight -= 1


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_engine_is_ready_after_its_first_token_and_gone_with_all_it_started(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    model = make_model("m")

    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"a": {"model": str(model)}}), here, heard) as fleet:
            (target,) = fleet.targets.of("a")
            assert target.replica.state == "starting"
            assert fleet.targets.ready("a") == ()
            assert await fleet.ready()
            assert fleet.targets.ready("a") == fleet.targets.of("a")
            assert target.version == str(model)
            assert target.max_length == 64
            assert target.model in await ask(target)
            assert all(map(alive, vllm.processes()))
        assert len(vllm.processes()) == 2
        assert not any(map(alive, vllm.processes()))
        assert fleet.targets.of("a") == ()

    run(scenario())
    assert "engine a: weights loaded in 0.25 s" in heard.lines
    assert any("served unchecked" in line for line in heard.lines)
    assert any(line.startswith("engine a: ready after") for line in heard.lines)
    (log,) = (here.home / "serve" / "logs").glob("a-*-0.log")
    assert "Loading weights" in log.read_text()


def test_adapters_of_one_base_and_the_base_itself_share_one_server(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    one, two = make_model("one", base=base, value=2.0), make_model("two", base=base, value=3.0, rank=20)
    engines = {"b": {"model": str(base)}, "x": {"model": str(one)}, "y": {"model": str(two)}}

    async def scenario() -> None:
        async with fleet_of(vllm.gateway(engines), here, heard) as fleet:
            assert await fleet.ready()
            targets = {name: fleet.targets.of(name)[0] for name in engines}
            assert len({id(target.replica) for target in targets.values()}) == 1
            assert len({target.model for target in targets.values()}) == 3
            for target in targets.values():
                assert target.model in await ask(target)

    run(scenario())
    (start,) = vllm.starts()
    arguments = start["arguments"]
    assert arguments[arguments.index("--max-lora-rank") + 1] == "32"
    assert arguments[arguments.index("--max-loras") + 1] == "3"


def test_engines_with_other_options_or_another_template_have_servers_of_their_own(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    plain, templated = make_model("plain", base=base, value=2.0), make_model("templated", base=base, value=3.0)
    (templated / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    engines: dict[str, dict[str, Any]] = {
        "a": {"model": str(plain)},
        "b": {"model": str(plain), "max_length": 32},
        "c": {"model": str(templated)},
    }

    async def scenario() -> None:
        async with fleet_of(vllm.gateway(engines), here, heard) as fleet:
            assert await fleet.ready()

    run(scenario())
    assert len(vllm.starts()) == 3


def test_the_base_itself_can_join_its_adapters_later(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    adapter = {"model": str(make_model("one", base=base, value=2.0))}

    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"x": adapter}), here, heard) as fleet:
            assert await fleet.ready()
            await fleet.reload(vllm.gateway({"x": adapter, "b": {"model": str(base)}}))
            assert await fleet.ready()
            for name in ("x", "b"):
                (target,) = fleet.targets.ready(name)
                assert target.model in await ask(target)

    run(scenario())
    assert len(vllm.starts()) == 1


def test_a_server_that_is_killed_comes_back_with_its_adapters(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    engines = {"x": {"model": str(make_model("one", base=base, value=2.0))}}

    async def scenario() -> None:
        async with fleet_of(vllm.gateway(engines), here, heard) as fleet:
            assert await fleet.ready()
            (target,) = fleet.targets.of("x")
            os.kill(vllm.processes()[0], signal.SIGKILL)
            await until(lambda: target.replica.state != "ready")
            assert fleet.targets.ready("x") == ()
            await until(lambda: target.replica.state == "ready")
            assert target.model in await ask(target)
            orphan = vllm.processes()[1]
            assert not alive(orphan)

    run(scenario())
    assert any("killed by signal 9" in line and "starts again in" in line for line in heard.lines)


def test_a_guard_that_is_killed_leaves_nothing_either(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"a": {"model": str(make_model("m"))}}), here, heard) as fleet:
            assert await fleet.ready()
            (target,) = fleet.targets.of("a")
            started = vllm.processes()
            guard = fleet.servers[0].keepers[0].pid
            assert guard is not None
            os.kill(guard, signal.SIGKILL)
            await until(lambda: target.replica.state != "ready")
            await until(lambda: target.replica.state == "ready")
            assert len(vllm.processes()) == 4
            assert not any(map(alive, started))

    run(scenario())


def test_a_crash_loop_ends_with_the_reason_and_a_reload_tries_again(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    settings = vllm.gateway({"a": {"model": str(make_model("m"))}})
    (vllm.steer / "crash").write_text("ERROR 11-21 09:00:00 [x.py:1] torch.OutOfMemoryError: CUDA out of memory.")

    async def scenario() -> None:
        async with fleet_of(settings, here, heard) as fleet:
            assert not await fleet.ready()
            (target,) = fleet.targets.of("a")
            assert target.replica.state == "failed"
            assert "given up after 3 ends: out of memory: torch.OutOfMemoryError: CUDA out of" in target.replica.reason
            assert status(fleet)["engines"][0]["state"] == "failed"
            starts = len(vllm.starts())
            await asyncio.sleep(0.3)
            assert len(vllm.starts()) == starts == 3
            (vllm.steer / "crash").unlink()
            await fleet.reload(settings)
            await until(lambda: target.replica.state == "ready")

    run(scenario())


def test_only_the_bytes_that_were_admitted_come_back(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    model = make_model("m")
    settings = vllm.gateway({"a": {"model": str(model)}})
    weights = model / "model.safetensors"

    async def scenario() -> None:
        async with fleet_of(settings, here, heard) as fleet:
            assert await fleet.ready()
            (target,) = fleet.targets.of("a")
            weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
            assert target.model in await ask(target)  # what runs goes on
            os.kill(vllm.processes()[0], signal.SIGKILL)
            await until(lambda: target.replica.state == "failed")
            assert f"the bytes in {model} are not those that were admitted" in target.replica.reason
            assert len(vllm.starts()) == 1
            await fleet.reload(settings)
            assert await fleet.ready()
            assert fleet.targets.of("a")[0].digest == folder_digest(model) != target.digest
            os.kill(vllm.processes()[2], signal.SIGKILL)
            model.rename(model.parent / "elsewhere")
            await until(lambda: fleet.targets.of("a")[0].replica.state == "failed")
            assert f"its folder {model} is gone" in fleet.targets.of("a")[0].replica.reason

    run(scenario())


def test_bytes_that_cannot_be_read_any_more_are_told(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    model = make_model("m")
    weights = model / "model.safetensors"

    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"a": {"model": str(model)}}), here, heard) as fleet:
            assert await fleet.ready()
            (target,) = fleet.targets.of("a")
            weights.unlink()
            weights.symlink_to("/proc/self/mem")  # reads as a disk does that fails
            os.kill(vllm.processes()[0], signal.SIGKILL)
            await until(lambda: target.replica.state == "failed")
            assert "it cannot be started: Input/output error" in target.replica.reason

    run(scenario())


def test_a_start_that_takes_too_long_has_failed(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    (vllm.steer / "slow").write_text("600")
    engine = {"model": str(make_model("m")), "ready_timeout_s": 0.5, "restart": {"attempts": 1}}

    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"a": engine}), here, heard) as fleet:
            assert not await fleet.ready()
            (target,) = fleet.targets.of("a")
            assert target.replica.state == "failed"
            assert "not ready within 0.5 s" in target.replica.reason

    run(scenario())
    assert not any(map(alive, vllm.processes()))


def test_an_adapter_moves_to_its_next_version_under_load_and_no_answer_has_two_versions(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    first, second = make_model("one", base=base, value=2.0), make_model("two", base=base, value=3.0)
    before, after = (vllm.gateway({"x": {"model": str(model)}}) for model in (first, second))

    async def scenario() -> None:
        async with fleet_of(before, here, heard) as fleet:
            assert await fleet.ready()
            (old,) = fleet.targets.of("x")
            texts: list[str] = []
            over = asyncio.Event()

            async def client() -> None:
                while not over.is_set():
                    (target,) = fleet.targets.ready("x")
                    texts.append(await ask(target, stream=True))

            clients = [asyncio.create_task(client()) for _ in range(4)]
            await asyncio.sleep(0.2)
            await fleet.reload(after)
            await until(lambda: fleet.targets.of("x")[0] is not old)
            (new,) = fleet.targets.of("x")
            await until(lambda: any(new.model in text for text in texts))
            over.set()
            await asyncio.gather(*clients)
            assert new.replica is old.replica
            seen = [{line.removeprefix("data: ") for line in text.split("\n\n")} - {"", "[DONE]"} for text in texts]
            assert all(len(models) == 1 for models in seen)
            assert set.union(*seen) == {old.model, new.model}
            assert all("[DONE]" in text for text in texts)
            # What nobody uses any more is taken from the server.
            keeper = fleet.servers[0].keepers[0]
            await until(lambda: keeper.loaded == {new.model, fleet.wanted["x"].base_name})

    run(scenario())
    assert len(vllm.starts()) == 1


def test_an_adapter_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_so(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    first, second = make_model("one", base=base, value=2.0), make_model("two", base=base, value=3.0)
    (vllm.steer / "refuse-two").touch()

    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"x": {"model": str(first)}}), here, heard) as fleet:
            assert await fleet.ready()
            (old,) = fleet.targets.of("x")
            await fleet.reload(vllm.gateway({"x": {"model": str(second)}}))
            await until(lambda: any("cannot be loaded" in line for line in heard.lines))
            assert fleet.targets.ready("x") == (old,)
            assert "two cannot be loaded" in status(fleet)["engines"][0]["note"]
            # And after a crash, the one that serves is what comes back.
            os.kill(vllm.processes()[0], signal.SIGKILL)
            await until(lambda: old.replica.state != "ready")
            await until(lambda: old.replica.state == "ready")
            assert old.model in await ask(old)

    run(scenario())


def test_another_whole_model_is_ready_before_the_old_one_ends(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    before, after = (vllm.gateway({"a": {"model": str(make_model(name, value=v))}}) for name, v in (("m", 1), ("n", 2)))

    async def scenario() -> None:
        async with fleet_of(before, here, heard) as fleet:
            assert await fleet.ready()
            (old,) = fleet.targets.of("a")
            with vllm.streaming():
                stream = asyncio.create_task(ask(old, stream=True))
                await fleet.reload(after)
                await until(lambda: fleet.targets.ready("a")[0] is not old)
                now = fleet.targets.ready("a")
                assert now[0].replica is not old.replica
                assert old.replica.state == "ready"
            assert "[DONE]" in await stream
            await until(lambda: old.replica.state == "stopped")
            assert now[0].model in await ask(now[0])

    run(scenario())
    assert len(vllm.starts()) == 2


def test_without_room_for_both_the_old_one_ends_first_which_is_said(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    before, after = (vllm.gateway({"a": {"model": str(make_model(name, value=v))}}) for name, v in (("m", 1), ("n", 2)))
    gpu = Gpu("NVIDIA L4", 24 * GIB, 24 * GIB, "8.9", "550")

    async def scenario() -> None:
        async with fleet_of(before, here, heard, places=Places([gpu], ROOM)) as fleet:
            assert await fleet.ready()
            (old,) = fleet.targets.of("a")
            with vllm.streaming():
                stream = asyncio.create_task(ask(old, stream=True))
                await fleet.reload(after)
                assert fleet.targets.ready("a") == ()
            assert "[DONE]" in await stream
            await until(lambda: fleet.targets.ready("a"))
            assert old.replica.state == "stopped"

    run(scenario())
    assert any("so the old one ends first" in line for line in heard.lines)
    assert [start["gpus"] for start in vllm.starts()] == ["0", "0"]


def test_each_replica_has_gpus_of_its_own(vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel) -> None:
    gpus = [Gpu("NVIDIA L4", 24 * GIB, 24 * GIB, "8.9", "550")] * 4
    settings = vllm.gateway({"a": {"model": str(make_model("m")), "replicas": 2, "gpus": 2}})

    async def scenario() -> None:
        async with fleet_of(settings, here, heard, places=Places(gpus, ROOM)) as fleet:
            assert await fleet.ready()
            assert len(fleet.targets.ready("a")) == 2

    run(scenario())
    assert sorted(start["gpus"] for start in vllm.starts()) == ["0,1", "2,3"]
    assert all("--tensor-parallel-size" in start["arguments"] for start in vllm.starts())


def test_a_reload_starts_what_is_new_ends_what_is_gone_and_leaves_the_rest_alone(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    kept, gone, new = (str(make_model(name, value=v)) for name, v in (("k", 1), ("g", 2), ("n", 3)))
    before = vllm.gateway({"k": {"model": kept}, "g": {"model": gone}})
    after = vllm.gateway({"k": {"model": kept}, "n": {"model": new}})

    async def scenario() -> None:
        async with fleet_of(before, here, heard) as fleet:
            assert await fleet.ready()
            (target,), (old,) = fleet.targets.of("k"), fleet.targets.of("g")
            await fleet.reload(after)
            assert fleet.targets.of("g") == ()
            assert await fleet.ready()
            assert fleet.targets.of("k") == (target,)
            await until(lambda: old.replica.state == "stopped")
            await until(lambda: len(fleet.servers) == 2)

    run(scenario())
    assert len(vllm.starts()) == 3


def test_a_reload_of_what_no_process_knows_of_itself_starts_nothing(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    model: dict[str, Any] = {"model": str(make_model("m")), "replicas": 2}
    base = make_model("base")
    twins = {name: {"model": str(make_model(name, base=base, value=v))} for name, v in (("x", 2.0), ("y", 3.0))}
    priced = {"y": {**twins["y"], "usd_per_gpu_hour": 4.0}}
    remote = {"url": "http://127.0.0.1:9/v1", "model": "r"}
    others = {"usd_per_gpu_hour": 3.0, "ready_timeout_s": 9.0, "restart": {"first_wait_s": 0.05, "attempts": 1}}
    before = vllm.gateway({"m": model, **twins, **priced, "r": remote})
    dearer: dict[str, Any] = {"x": {**twins["x"], "usd_per_gpu_hour": 4.0}, "r": remote | {"usd_per_gpu_hour": 5.0}}
    after = vllm.gateway({"m": model | others, "y": twins["y"], **dearer})

    async def scenario() -> None:
        async with fleet_of(before, here, heard) as fleet:
            await until(lambda: all(fleet.targets.ready(name) for name in ("m", "x", "y")))
            targets = {name: fleet.targets.of(name) for name in before.engines}
            assert [one.replica.usd_per_hour for one in targets["m"]] == [None, None]
            await fleet.reload(after)
            assert {name: fleet.targets.of(name) for name in before.engines} == targets
            prices = {name: [one.replica.usd_per_hour for one in found] for name, found in targets.items()}
            assert prices == {"m": [3.0, 3.0], "x": [4.0], "y": [None], "r": [5.0]}
            assert fleet.remotes["r"].settings == after.engines["r"]
            # One end is too many now.
            (m,) = [one for one in fleet.servers if one.server.name == "m"]
            assert m.keepers[0].pid is not None
            os.kill(m.keepers[0].pid, signal.SIGKILL)
            await until(lambda: targets["m"][0].replica.state == "failed")

    run(scenario())
    assert len(vllm.starts()) == 4


def test_a_reload_looks_anew_and_keeps_what_runs_where_that_is_gone(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel
) -> None:
    base = make_model("base")
    one, two = (make_model(name, base=base, value=v) for name, v in (("one", 2.0), ("two", 3.0)))
    settings = vllm.gateway({"x": {"model": str(one)}, "y": {"model": str(two)}})

    async def scenario() -> None:
        async with fleet_of(settings, here, heard) as fleet:
            assert await fleet.ready()
            (x,), (y,) = fleet.targets.of("x"), fleet.targets.of("y")
            weights = one / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
            two.rename(two.parent / "elsewhere")
            await fleet.reload(settings)
            await until(lambda: fleet.targets.of("x")[0] is not x)
            assert fleet.targets.ready("x")[0].digest == folder_digest(one) != x.digest
            assert fleet.targets.ready("y") == (y,)
            assert "there is no folder" in fleet.notes["y"]
            assert "what runs goes on" in fleet.notes["y"]

    run(scenario())
    assert len(vllm.starts()) == 1


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        pytest.param({"model": "/nowhere"}, "there is no folder /nowhere", id="a model that is not there"),
        pytest.param({"vllm": {"max_num_seq": 4}}, "did you mean `max_num_seqs`", id="an option vLLM does not know"),
        pytest.param({"require": "promoted"}, "no PASS and no approval", id="a folder that should be promoted"),
        pytest.param({"replicas": 1000}, "GB are free", id="more than fits"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_changes(
    vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel, engine: dict[str, Any], problem: str
) -> None:
    model = {"model": str(make_model("m"))}
    bad = vllm.gateway({"a": model | engine})

    async def scenario() -> None:
        with pytest.raises((InputError, EnvironmentFault), match=problem):
            async with fleet_of(bad, here, heard):
                pass
        assert vllm.starts() == []
        async with fleet_of(vllm.gateway({"a": model}), here, heard) as fleet:
            assert await fleet.ready()
            targets = fleet.targets.of("a")
            with pytest.raises((InputError, EnvironmentFault), match=problem):
                await fleet.reload(bad)
            assert fleet.targets.ready("a") == targets
        assert len(vllm.starts()) == 1

    run(scenario())


def test_all_engines_that_cannot_be_served_are_told_together(vllm: Vllm, here: Workspace, heard: Heard) -> None:
    async def scenario() -> None:
        async with fleet_of(vllm.gateway({"a": {"model": "/no/a"}, "b": {"model": "/no/b"}}), here, heard):
            pass

    with pytest.raises(InputError, match="2 engines cannot be served") as caught:
        run(scenario())
    assert "/no/a" in str(caught.value)
    assert "/no/b" in str(caught.value)


def test_drain_waits_for_what_is_under_way(vllm: Vllm, here: Workspace, heard: Heard, make_model: MakeModel) -> None:
    settings = vllm.gateway({"a": {"model": str(make_model("m"))}}, limits={"drain_s": 0.3})

    async def scenario() -> None:
        async with fleet_of(settings, here, heard) as fleet:
            assert await fleet.ready()
            (target,) = fleet.targets.of("a")
            with vllm.streaming():
                stream = asyncio.create_task(ask(target, stream=True))
                await until(lambda: fleet.in_flight == 1)
                assert await fleet.drain() == 1  # it has its time, and takes more
            await stream
            assert await fleet.drain() == 0

    run(scenario())
