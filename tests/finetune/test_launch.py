"""Several processes are one run: the same weights as one, exact after any kill, and all end when one does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmops.errors import TrainingStopped
from llmops.finetune.job import Job, read_outcome, read_steps
from llmops.finetune.launch import launch, torchrun_command
from llmops.finetune.teacher import TeacherModel
from tests.finetune.alone import alone, ranks, together
from tests.finetune.small_models import make_random_base
from tests.finetune.small_preferences import a_preference_recipe, make_preference_stores
from tests.finetune.small_runs import PAD, Stores, a_recipe, as_source, make_stores
from tests.killable import KILLABLE, killable

# One worker: whole runs are shared.
pytestmark = [pytest.mark.usefixtures("one_thread"), KILLABLE]


@pytest.fixture(scope="module")
def stores(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return make_stores(random_base, tmp_path_factory.mktemp("tokens"))


def a_run(folder: Path, base: Path, stores: Stores, **changes: Any) -> Path:
    recipe = a_recipe(**{"optimizer": {"learning_rate": 1e-4, "epsilon": 1e-6}, **changes})
    folder.mkdir(parents=True)
    Job(recipe, as_source(base), stores.folder, "sdpa", False, PAD).write(folder)
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in (run / "artifact").glob("*.safetensors"):
        found.update(load_file(file))
    assert found
    return found


SHARDING = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def finished(random_base: Path, stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run that torchrun made without a stop, by how two processes share the model: several passes an update."""
    made: dict[str, Path] = {}

    def run(parallel: str) -> Path:
        if parallel not in made:
            made[parallel] = a_run(tmp_path_factory.mktemp(parallel) / "run", random_base, stores, **shared(parallel))
            launch(made[parallel], world=2)
        return made[parallel]

    return run


def shared(parallel: str) -> dict[str, Any]:
    return {
        "batch": {"per_device": 2},
        "parallel": {"kind": parallel},
        "checkpoints": {"every": 2},
        "schedule": {"steps": 9},
    }


@pytest.mark.parametrize("parallel", SHARDING)
def test_two_processes_train_what_one_does(
    random_base: Path, stores: Stores, finished: Callable[[str], Path], tmp_path: Path, parallel: str
) -> None:
    one = a_run(tmp_path / "one", random_base, stores, **shared("ddp"))
    launch(one, world=1)
    assert_same_training(one, finished(parallel))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"batch": {"per_device": 2, "packing": True}}, id="full-packed-ddp-accumulated"),
        pytest.param({"batch": {"per_device": 4}, "adapter": {"kind": "lora", "rank": 4}}, id="lora-ddp"),
        pytest.param({"batch": {"per_device": 4}, "parallel": {"kind": "fsdp"}}, id="full-fsdp"),
        pytest.param(
            {"batch": {"per_device": 2}, "parallel": {"kind": "fsdp"}, "adapter": {"kind": "lora", "rank": 4}},
            id="lora-fsdp-accumulated",
        ),
    ],
)
def test_two_processes_train_what_one_does_also(
    random_base: Path, stores: Stores, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Packed, and of the adapters alone; in one pass an update and in several."""
    one = a_run(tmp_path / "one", random_base, stores, **{**changes, "parallel": {"kind": "ddp"}})
    two = a_run(tmp_path / "two", random_base, stores, **changes)
    launch(one, world=1)
    together(two)
    assert_same_training(one, two)


def assert_same_training(one: Path, two: Path) -> None:
    """Ranks hold unequal numbers of trained tokens; loss, gradient norm and weights are those of one process."""
    alone, together = read_outcome(one), read_outcome(two)
    assert together.trained_tokens == alone.trained_tokens
    assert together.tokens == alone.tokens
    for left, right in zip(read_steps(one), read_steps(two), strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-5)
        assert left.grad_norm == pytest.approx(right.grad_norm, abs=1e-5)
        if left.validation_loss is not None:
            assert left.validation_loss == pytest.approx(right.validation_loss, abs=1e-5)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("dpo", {"batch": {"per_device": 4}}, id="dpo-ddp"),
        pytest.param(
            "kto",
            {"batch": {"per_device": 2}, "parallel": {"kind": "fsdp"}, "adapter": {"kind": "lora", "rank": 4}},
            id="kto-lora-fsdp-accumulated",
        ),
        pytest.param(
            "reward",
            {"batch": {"per_device": 2}, "parallel": {"kind": "fsdp"}, "adapter": {"kind": "lora", "rank": 4}},
            id="reward-lora-fsdp-accumulated",
        ),
    ],
)
def test_two_processes_prefer_what_one_does(
    random_base: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """Reference, reference point and loss are of the whole update, whoever computes its parts."""
    stores = make_preference_stores(random_base, tmp_path / "tokens", kind)
    calm: dict[str, Any] = {"optimizer": {"learning_rate": 1e-4, "epsilon": 1e-6}, "schedule": {"steps": 4}}
    runs = {}
    for world, parallel in ((1, {"kind": "ddp"}), (2, changes.get("parallel", {"kind": "ddp"}))):
        recipe = a_preference_recipe(kind, **{**calm, **changes, "parallel": parallel})
        runs[world] = tmp_path / str(world)
        runs[world].mkdir()
        Job(recipe, as_source(random_base), stores.folder, "sdpa", False, PAD).write(runs[world])
        launch(runs[world], world=1) if world == 1 else together(runs[world])
    one, two = (list(read_steps(run)) for run in runs.values())
    for left, right in zip(one, two, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-5)
        assert left.grad_norm == pytest.approx(right.grad_norm, abs=1e-5)
    assert one[-1].validation_measures == pytest.approx(two[-1].validation_measures, abs=1e-5)
    kept = 2 if recipe.method.reference else 0
    assert len(list(stores.folder.glob("reference-*"))) == kept, "other numbers of processes add up in another order"
    first, second = weights(runs[1]), weights(runs[2])
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("parallel", SHARDING)
def test_two_processes_learn_from_a_teacher_what_one_does(
    random_base: Path, stores: Stores, tmp_path: Path, parallel: str
) -> None:
    """Each holds the teacher whole, and asks it about its own rows."""
    make_random_base(tmp_path / "teacher", tied=False, layers=3, hidden=96)
    teacher = TeacherModel(as_source(tmp_path / "teacher"), None)
    logits = {"alpha": 0.5, "temperature": 2.0}
    method = {"kind": "distill", "teacher": {"model": "teacher"}, "logits": logits}
    calm: dict[str, Any] = {"optimizer": {"learning_rate": 1e-4, "epsilon": 1e-6}, "schedule": {"steps": 4}}
    runs = {}
    for world, kind in ((1, "ddp"), (2, parallel)):
        recipe = a_recipe(method=method, batch={"per_device": 2}, parallel={"kind": kind}, **calm)
        runs[world] = tmp_path / str(world)
        runs[world].mkdir()
        Job(recipe, as_source(random_base), stores.folder, "sdpa", False, PAD, teacher).write(runs[world])
        launch(runs[world], world=1) if world == 1 else together(runs[world])
    assert_same_training(runs[1], runs[2])
    for left, right in zip(read_steps(runs[1]), read_steps(runs[2]), strict=True):
        assert left.measures == pytest.approx(right.measures, abs=1e-5)


@pytest.mark.parametrize("parallel", SHARDING)
def test_a_killed_run_of_two_processes_resumes_exactly(
    random_base: Path, stores: Stores, finished: Callable[[str], Path], tmp_path: Path, parallel: str
) -> None:
    whole = finished(parallel)
    killed = a_run(tmp_path / "killed", random_base, stores, **shared(parallel))
    with ranks(killed, until=5) as both:
        wait_for(lambda: steps_of(killed) >= 5, lambda: all(one.is_alive() for one in both))
    assert not (killed / "artifact").exists()
    # With DDP they begin through torchrun, as the one that was not killed did.
    launch(killed, world=2) if parallel == "ddp" else together(killed)
    assert [step.index for step in read_steps(killed)] == list(range(1, 10))
    first, second = weights(whole), weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def steps_of(run: Path) -> int:
    return len(list(read_steps(run)))


def wait_for(condition: Callable[[], bool], runs: Callable[[], bool]) -> None:
    """Comes back once it is so; fails where the run ends before."""
    end = time.monotonic() + 240
    while not condition():
        assert runs(), "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_killed_at_any_moment_ends_in_the_same_weights(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    """Killed with −9 again and again, also while it saves (a checkpoint an update)."""
    changes: dict[str, Any] = {
        "checkpoints": {"every": 1},
        "schedule": {"steps": 40},
        "adapter": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "validation": {"every": 0.2},
    }
    whole = a_run(tmp_path / "whole", random_base, stores, **changes)
    launch(whole, world=1)
    killed = a_run(tmp_path / "killed", random_base, stores, **changes)
    # Moments chosen so that they fall into different parts of an update and of a save.
    for number, delay in enumerate((0.0, 0.007, 0.013, 0.031)):
        goal = 8 * (number + 1)
        child = killable(alone, killed, goal + 6)  # however late the kill comes, there is more to do
        wait_for(lambda: steps_of(killed) >= goal, child.is_alive)  # noqa: B023, called at once
        time.sleep(delay)
        child.kill()
        child.join()
        assert not (killed / "artifact").exists()
    launch(killed, world=1)
    assert [step.index for step in read_steps(killed)] == list(range(1, 41))
    first, second = weights(whole), weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [s.loss for s in read_steps(whole)] == [s.loss for s in read_steps(killed)]


def test_sigterm_saves_and_exits_with_143(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", random_base, stores, schedule={"steps": 100_000}, checkpoints={"every": 50_000})
    child = killable(alone, run)
    wait_for(lambda: steps_of(run) >= 3, child.is_alive)
    child.terminate()
    child.join(240)
    assert child.exitcode == 143
    assert list((run / "checkpoints").glob("update-*"))


def test_a_crashed_process_ends_all(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    """Soon: by themselves the others would wait for it for half an hour."""
    run = a_run(
        tmp_path / "run", random_base, stores, schedule={"steps": 100_000}, batch={"per_device": 4},
        checkpoints={"every": 100_000},
    )  # fmt: skip
    failure: list[BaseException] = []

    def train() -> None:
        try:
            launch(run, world=2)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    wait_for(lambda: steps_of(run) >= 3, thread.is_alive)
    ranks = [int(pid) for pid in ranks_of(run)]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    thread.join(240)
    assert not thread.is_alive()
    assert isinstance(failure[0], TrainingStopped)
    assert "processes.log" in failure[0].fix
    assert not ranks_of(run)


def ranks_of(run: Path) -> list[str]:
    """Process ids of the training processes of a run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if str(run) in command and "llmops.finetune.launch" in command and "torch.distributed.run" not in command:
                found.append(folder.name)
    return sorted(found, key=int)


def test_several_nodes_take_the_usual_variables(tmp_path: Path) -> None:
    alone = torchrun_command(tmp_path, 4, {})
    assert "--standalone" in alone
    assert "--nproc-per-node=4" in alone
    second_of_three = torchrun_command(
        tmp_path, 8, {"MASTER_ADDR": "10.1.2.3", "MASTER_PORT": "1234", "NNODES": "3", "NODE_RANK": "1"}
    )
    for option in ("--nnodes=3", "--node-rank=1", "--master-addr=10.1.2.3", "--master-port=1234"):
        assert option in second_of_three


def test_the_outcome_is_on_disk(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", random_base, stores, schedule={"steps": 2})
    outcome = launch(run, world=1)
    assert read_outcome(run) == outcome
    assert outcome.kind == "full"
    assert outcome.updates == 2
