"""A user's fault ends in two parts and exit code 2, ours in exit code 1 with the traceback in the log file."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from llmops.cli import main as command_line
from llmops.errors import EnvironmentFault, InputError, Interrupted, TrainingStopped
from tests.patience import HANG_S


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    """Runs `main` over a command that does what it is given; answers exit code and standard error."""
    before = signal.getsignal(signal.SIGINT)

    def called(work: Callable[[], None]) -> tuple[int, str]:
        app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        app.command()(work)
        monkeypatch.setattr(command_line, "app", app)
        monkeypatch.setattr(sys, "argv", ["llmops"])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        told = capsys.readouterr()
        assert told.out == ""
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.err

    yield called
    signal.signal(signal.SIGINT, before)


Run = Callable[[Callable[[], None]], tuple[int, str]]


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize("kind", [InputError, EnvironmentFault, TrainingStopped])
def test_a_fault_of_the_user_is_two_lines_and_no_log(run: Run, workspace: Path, kind: type[InputError]) -> None:
    assert run(raising(kind("the rank is 9", fix="set it to 8"))) == (2, "error: the rank is 9\n  → set it to 8\n")
    assert not workspace.exists()


@pytest.mark.parametrize("code", [130, 143])
def test_an_interruption_has_the_code_of_its_signal(run: Run, code: int) -> None:
    assert run(raising(Interrupted("stopped", fix="run it again", exit_code=code)))[0] == code


def test_ctrl_c_anywhere_is_an_interruption(run: Run) -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    code, said = run(work)
    assert code == 130
    assert said == "error: interrupted\n  → run the same command again\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_never_our_fault(run: Run, workspace: Path, number: int) -> None:
    code, said = run(raising(OSError(number, os.strerror(number), "/data/run/manifest.json")))
    assert code == 2
    assert said.startswith("error: the disk is full (/data/run/manifest.json)\n  → free some space")
    assert not (workspace / "llmops.log").exists()


def test_our_own_fault_is_one_line_with_the_traceback_in_the_log(run: Run, workspace: Path) -> None:
    code, said = run(raising(ZeroDivisionError("of a share")))
    log = workspace / "llmops.log"
    assert code == 1
    assert said == (
        "error: a fault of llmops itself: ZeroDivisionError: of a share\n"
        f"  → the traceback is at the end of {log}; please report it\n"
    )
    run(raising(KeyError("again")))
    text = log.read_text()
    assert text.count("Traceback (most recent call last)") == 2
    assert text.index("of a share") < text.index("KeyError: 'again'")


def test_without_a_place_for_the_log_the_traceback_is_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "file"))
    code, said = run(raising(ZeroDivisionError("of a share")))
    assert code == 1
    assert "Traceback (most recent call last)" in said
    assert said.endswith("  → the traceback is above; please report it\n")


def llmops(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmops.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * HANG_S)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("fintune", "recipe.yaml"), "No such command 'fintune'"),
        (("finetune",), "Missing argument 'recipe'"),
        (("finetune", "recipe.yaml", "--ou", "x"), "No such option: --ou"),
        (("finetune", "recipe.yaml", "--gpus", "many"), "--gpus"),
    ],
)
def test_a_command_line_that_cannot_be_read_exits_with_2(
    workspace: Path, arguments: tuple[str, ...], named: str
) -> None:
    done = llmops(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not workspace.exists()


def test_help_lists_the_commands() -> None:
    done = llmops("--help")
    assert done.returncode == 0
    for command in ("finetune", "plan", "eval", "merge", "models", "data", "doctor", "explain"):
        assert command in done.stdout
