"""A checkpoint brings a run back to where it was, bit for bit; one that is not whole is never taken for one."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from llmops.errors import EnvironmentFault
from llmops.finetune.checkpoint import (
    Progress,
    State,
    is_whole,
    latest,
    name_of,
    prune,
    read_progress,
    rehearse,
    restore,
    restore_weights,
    save,
)
from llmops.finetune.parallel import Processes

ALONE = Processes(0, 1, torch.device("cpu"))


def live(seed: int = 0, *, width: int = 8, optimizer: str = "adamw") -> State:
    """Two layers, the first one frozen, and an optimizer that has made a step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
    model[0].requires_grad_(False)
    trained = [one for one in model.parameters() if one.requires_grad]
    made: torch.optim.Optimizer
    if optimizer == "adamw":
        made = torch.optim.AdamW(trained, lr=0.1, fused=True)
    else:
        from bitsandbytes.optim import AdamW8bit

        made = AdamW8bit(trained, lr=0.1)
    state = State(model, made, ALONE, split=False)
    step(state)
    return state


def step(state: State) -> None:
    """One update on drawn numbers."""
    width = next(state.model.parameters()).shape[0]
    state.model(torch.randn(4, width)).square().mean().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()


def everything(state: State) -> dict[str, torch.Tensor]:
    """All numbers of a state that a run goes on with."""
    found = {name: one.detach().clone() for name, one in state.model.named_parameters()}
    for name, one in state.model.named_parameters():
        values = state.optimizer.state.get(one, {})
        found |= {f"optimizer {name} {key}": torch.as_tensor(value).clone() for key, value in values.items()}
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestARestoredRun:
    @pytest.mark.parametrize(("optimizer", "width"), [("adamw", 8), ("adamw8bit", 64)])
    def test_goes_on_with_the_same_bits(self, tmp_path: Path, optimizer: str, width: int) -> None:
        """Weights, moments and the numbers drawn next; 64 × 64 is what bitsandbytes keeps in 8 bits."""
        first = live(optimizer=optimizer, width=width)
        progress = Progress(update=1, tokens=10, trained_tokens=4, seconds=0.25, loss=1.5)
        folder = save(tmp_path, name_of(1), first, progress)
        step(first)
        step(first)
        second = live(seed=1, optimizer=optimizer, width=width)
        step(second)
        # Frozen weights come from the base, so the checkpoint does not hold them.
        second.model[0].load_state_dict(first.model[0].state_dict())
        assert restore(folder, second) == progress
        step(second)
        step(second)
        assert same(everything(first), everything(second))

    def test_may_begin_without_any_optimizer_state(self, tmp_path: Path) -> None:
        """As a process does that has just loaded its base."""
        first = live()
        folder = save(tmp_path, name_of(1), first, Progress(update=1))
        fresh = live()
        fresh.optimizer.state.clear()
        restore(folder, fresh)
        assert same(everything(first), everything(fresh))

    def test_can_take_the_weights_alone(self, tmp_path: Path) -> None:
        state = live()
        folder = save(tmp_path, "best", state, Progress())
        best = everything(state)
        step(state)
        last = everything(state)
        restore_weights(folder, state)
        now = everything(state)
        assert {name for name in now if torch.equal(now[name], best[name])} >= {"1.weight", "1.bias"}
        assert all(torch.equal(now[name], last[name]) for name in now if name.startswith("optimizer"))

    def test_refuses_the_weights_of_another_model(self, tmp_path: Path) -> None:
        folder = save(tmp_path, name_of(1), live(), Progress())
        other = live()
        other.model[0].requires_grad_(True)
        with pytest.raises(ValueError, match="other weights than the model trains"):
            restore(folder, other)

    def test_only_safetensors_and_json_are_written(self, tmp_path: Path) -> None:
        folder = save(tmp_path, name_of(1), live(optimizer="adamw8bit", width=64), Progress())
        assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    progress=st.builds(
        Progress,
        update=st.integers(0, 10**9),
        tokens=st.integers(0, 10**15),
        seconds=numbers,
        loss=st.one_of(numbers, st.just(float("inf"))),
        best_loss=st.none() | numbers,
        best_update=st.integers(0, 10**9),
        without_gain=st.integers(0, 100),
        validation_loss=st.none() | numbers,
        scaler=st.none() | st.fixed_dictionaries({"scale": numbers, "_growth_tracker": st.integers(0, 2000)}),
    )
)
def test_progress_comes_back_as_it_was(tmp_path: Path, progress: Progress) -> None:
    (tmp_path / "disk").mkdir(exist_ok=True)
    assert read_progress(save(tmp_path / "disk", "any", tiny(), progress)) == progress


def tiny() -> State:
    model = nn.Linear(1, 1)
    return State(model, torch.optim.AdamW(model.parameters()), ALONE, split=False)


class TestTheNewestWholeCheckpoint:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Checkpoints of updates 1 and 2, a best one, and what a rehearsal left."""
        state = tiny()
        for update in (1, 2):
            save(tmp_path, name_of(update), state, Progress(update=update))
        save(tmp_path, "best", state, Progress(update=9))
        save(tmp_path, "rehearsal", state, Progress(update=9))
        return tmp_path

    def test_is_taken(self, root: Path) -> None:
        assert latest(root) == root / name_of(2)

    def test_is_that_of_the_highest_update_however_long_the_run(self, root: Path) -> None:
        save(root, name_of(10), tiny(), Progress(update=10))
        assert latest(root) == root / name_of(10)

    @pytest.mark.parametrize("file", ["weights-0", "optimizer-0", "generators-0"])
    @pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
    def test_is_passed_over_when_a_file_is_not_whole(self, root: Path, file: str, damage: str) -> None:
        path = root / name_of(2) / f"{file}.safetensors"
        match damage:
            case "cut":
                path.write_bytes(path.read_bytes()[:-1])
            case "gone":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
        assert latest(root) == root / name_of(1)

    @pytest.mark.parametrize("text", ["", "{", '{"update": 2}', '{"files": {"weights-0.safetensors": 3}}', "[]"])
    def test_is_passed_over_when_its_record_is_torn(self, root: Path, text: str) -> None:
        (root / name_of(2) / "progress.json").write_text(text)
        assert not is_whole(root / name_of(2))
        assert latest(root) == root / name_of(1)

    def test_is_not_one_that_is_still_being_written(self, root: Path) -> None:
        """What a kill in the middle of a save leaves has another name; the next save writes over it."""
        (root / name_of(2)).rename(root / f".{name_of(3)}.new")
        (root / f".{name_of(3)}.new" / "stray").write_text("")
        assert latest(root) == root / name_of(1)
        save(root, name_of(3), tiny(), Progress(update=3))
        assert latest(root) == root / name_of(3)
        assert not (root / name_of(3) / "stray").exists()
        assert not list(root.glob(".*"))

    def test_is_none_where_there_is_none(self, tmp_path: Path) -> None:
        assert latest(tmp_path) is None
        assert latest(tmp_path / "nothing") is None


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for update in (1, 2, 10):
        (tmp_path / name_of(update)).mkdir()
    (tmp_path / "best").mkdir()
    prune(tmp_path, keep)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["best", *[name_of(update) for update in (1, 2, 10)][-keep:]]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestAFullDisk:
    def test_leaves_the_last_good_checkpoint_and_says_what_to_do(self, tmp_path: Path) -> None:
        state = live(width=64)
        good = save(tmp_path, name_of(1), state, Progress(update=1))
        before = {path.name: path.read_bytes() for path in good.iterdir()}
        with files_of_at_most(10_000), pytest.raises(EnvironmentFault) as full:
            save(tmp_path, name_of(2), state, Progress(update=2))
        assert f"checkpoint {name_of(2)} could not be written" in full.value.problem
        assert "\n" not in full.value.problem
        assert "free disk space" in full.value.fix
        assert "last good checkpoint" in full.value.fix
        assert latest(tmp_path) == good
        assert {path.name: path.read_bytes() for path in good.iterdir()} == before
        assert [path.name for path in tmp_path.iterdir()] == [name_of(1)]

    def test_also_when_the_best_one_is_written_over(self, tmp_path: Path) -> None:
        state = live(width=64)
        best = save(tmp_path, "best", state, Progress(update=1))
        with files_of_at_most(10_000), pytest.raises(EnvironmentFault):
            save(tmp_path, "best", state, Progress(update=2))
        assert is_whole(best)
        assert read_progress(best).update == 1

    def test_of_two_mebibytes_is_told_in_the_words_of_the_system(self, tmp_path: Path) -> None:
        """A real one: checkpoints of 800 KB until no more goes in, then one more look at what is there."""
        script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from llmops.errors import EnvironmentFault
from llmops.finetune.checkpoint import Progress, latest, name_of, save
from tests.finetune.test_checkpoint import live
root, state = Path({str(tmp_path)!r}), live(width=256)
try:
    for update in range(1, 9):
        save(root, name_of(update), state, Progress(update=update))
except EnvironmentFault as error:
    print(error.problem)
print(update, latest(root).name, [path.name for path in root.iterdir() if path.name.startswith(".")])
"""
        mount = f'mount -t tmpfs -o size=2m tmpfs "{tmp_path}" && exec "$@"'
        around = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
        tried = subprocess.run([*around, "true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"this machine does not let a test mount a disk: {tried.stderr.strip()}")
        done = subprocess.run([*around, sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        problem, left = done.stdout.splitlines()
        assert problem.endswith("could not be written: No space left on device")
        assert left == f"3 {name_of(2)} []"


class TestARehearsal:
    def test_saves_compares_and_leaves_nothing(self, tmp_path: Path) -> None:
        state = live()
        before = everything(state)
        rehearse(tmp_path, state)
        assert list(tmp_path.iterdir()) == []
        assert same(everything(state), before)

    def test_refuses_what_does_not_come_back_as_it_was(self, tmp_path: Path) -> None:
        model = Restless(2, 2)
        state = State(model, torch.optim.AdamW(model.parameters()), ALONE, split=False)
        with pytest.raises(EnvironmentFault, match="did not come back") as refused:
            rehearse(tmp_path, state)
        assert str(tmp_path) in refused.value.fix
        assert list(tmp_path.iterdir()) == []


class Restless(nn.Linear):
    """Has other weights whenever it is looked at, so what was saved is not what is there."""

    def named_parameters(self, *arguments: Any, **named: Any) -> Iterator[tuple[str, nn.Parameter]]:
        with torch.no_grad():
            self.weight.add_(1)
        return super().named_parameters(*arguments, **named)
