"""Whoever ends first, server or llmops, and however: nothing that the server started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
GUARD = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from llmops.serve.guard import main; main()"

# A server with a child in a session of its own, which ignores SIGTERM, and with a grandchild.
SERVER = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + "/grandchild", "w").write(str(grandchild.pid))
time.sleep(600)
''', sys.argv[1]], start_new_session=True)
open(sys.argv[1] + "/server", "w").write(f"{os.getpid()} {child.pid}")
if sys.argv[2] != "-":
    while not os.path.exists(sys.argv[1] + "/grandchild"):
        time.sleep(0.01)
    sys.exit(int(sys.argv[2]))
time.sleep(600)
"""

# llmops: holds the pipe, starts the guard, and says its number.
PARENT = """
import os, subprocess, sys, time
reading, writing = os.pipe()
guard = subprocess.Popen([sys.executable, "-I", "-c", *sys.argv[1:2], str(reading), *sys.argv[2:]],
                         pass_fds=[reading], start_new_session=True)
print(guard.pid, flush=True)
time.sleep(600)
"""


def processes(folder: Path) -> list[int]:
    until = time.monotonic() + HANG_S
    while time.monotonic() < until:
        found = [int(one) for name in ("server", "grandchild") for one in _read(folder / name).split()]
        if len(found) == 3:
            return found
        time.sleep(0.02)
    raise AssertionError("the server did not start")


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(numbers: list[int], *, seconds: float = HANG_S) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, numbers)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, numbers))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "socket").touch()
    return folder


def test_when_llmops_is_killed_everything_ends(tmp_path: Path, scratch: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path), "-"]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, GUARD, str(scratch), *command], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        guard = int(parent.stdout.readline())
        started = processes(tmp_path)
        assert all(map(alive, [*started, guard]))
        parent.kill()
    assert all_end([*started, guard])
    assert not scratch.exists()


def test_when_the_guard_is_killed_the_server_ends(tmp_path: Path, scratch: Path) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-c", GUARD, str(reading), str(scratch)]
    with subprocess.Popen([*command, sys.executable, "-c", SERVER, str(tmp_path), "-"], pass_fds=[reading]) as guard:
        server, *others = processes(tmp_path)
        guard.kill()
        assert all_end([server])
        for left in others:  # a session of their own, and nobody left who knows of them
            os.kill(left, signal.SIGKILL)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("status", "signalled"), [(0, None), (7, None), (128 + signal.SIGKILL, signal.SIGKILL)])
def test_when_the_server_ends_what_it_leaves_ends_and_its_status_is_told(
    tmp_path: Path, scratch: Path, status: int, signalled: signal.Signals | None
) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-c", GUARD, str(reading), str(scratch), sys.executable, "-c", SERVER]
    with subprocess.Popen(
        [*command, str(tmp_path), "-" if signalled else str(status)], pass_fds=[reading], start_new_session=True
    ) as guard:
        started = processes(tmp_path)
        if signalled:
            os.kill(started[0], signalled)
        assert guard.wait(timeout=HANG_S) == status
    assert all_end(started, seconds=0)
    os.close(reading)
    os.close(writing)
