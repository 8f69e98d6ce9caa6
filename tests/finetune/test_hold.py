"""A run's folder has one launcher at a time, and what it started ends with it, also when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.finetune.hold import held

HOLDER = """
import sys, time
from pathlib import Path
from llmops.finetune.hold import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""

# A launcher, what it starts (torchrun, which ends for nobody), and what that starts in a session of its own.
LAUNCHER = """
import subprocess, sys
from pathlib import Path
from llmops.finetune.hold import held
with held(Path(sys.argv[1])):
    subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1], sys.argv[3]], start_new_session=True)
"""
BETWEEN = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], start_new_session=True)
"""
WORKER = """
import os, sys, time
from pathlib import Path
from llmops.finetune.hold import end_with_launcher
from llmops.processes import end_with_parent
end_with_parent()
end_with_launcher(Path(sys.argv[1]))
print(os.getppid(), os.getpid(), flush=True)
time.sleep(600)
"""


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def test_the_folder_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with held(tmp_path):
            pass


def test_a_second_launcher_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    with started(HOLDER, str(tmp_path)) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError) as refused, held(tmp_path, within_s=0.2):
            pass
        first.kill()
        first.wait()
        assert f"another process trains in {tmp_path}" in refused.value.problem
        with held(tmp_path):
            pass


def test_nodes_that_share_a_folder_have_a_launcher_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(HOLDER, str(tmp_path)) as first:
        assert first.stdout is not None
        first.stdout.readline()
        monkeypatch.setenv("NODE_RANK", "1")
        with held(tmp_path, within_s=0.2):
            pass
        first.kill()


@pytest.mark.parametrize("killed", ["launcher", "between"])
def test_processes_end_with_whoever_started_them(tmp_path: Path, killed: str) -> None:
    """After `kill -9` of either one, nothing goes on writing into the folder."""
    with started(LAUNCHER, str(tmp_path), BETWEEN, WORKER) as launcher:
        assert launcher.stdout is not None
        between, worker = map(int, launcher.stdout.readline().split())
        try:
            os.kill(launcher.pid if killed == "launcher" else between, signal.SIGKILL)
            end = time.monotonic() + 120
            while alive(worker):
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            launcher.kill()
            for left in (between, worker):
                if alive(left):
                    os.kill(left, signal.SIGKILL)
    with held(tmp_path):
        pass


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked about yet does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
