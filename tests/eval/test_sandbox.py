"""Code that nobody has read runs bounded, reaches nothing, passes only by passing, and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault
from llmops.eval.sandbox import Kind, Limits, Program, available, passed

KINDS: list[Kind] = ["namespaces", "refusals"]
DOUBLE = "assert double(2) == 4\nassert double(0) == 0"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "namespaces" and available() != "namespaces":
        pytest.skip("the kernel lets this user make no namespaces")
    wanted: Kind = request.param
    return wanted


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every folder of the sandbox is in this test's own, so what is left can be told from that of other tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("llmops-code-")] == []
    end = time.monotonic() + 60
    while (left := processes_in(tmp_path)) and time.monotonic() < end:
        time.sleep(0.02)
    assert left == []


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(process.name)
        except OSError:
            continue
    return found


def run(code: str, *tests: str, kind: Kind, seconds: float = 60.0, memory_mb: int = 256) -> bool:
    (result,) = passed([Program(code, tests)], Limits(seconds=seconds, memory_mb=memory_mb), kind=kind)
    return result


@pytest.mark.parametrize(
    ("code", "tests", "passes"),
    [
        pytest.param("def double(x):\n    return 2 * x", [DOUBLE], True, id="right"),
        pytest.param("def double(x):\n    return x + 2", [DOUBLE], False, id="wrong"),
        pytest.param("def double(x):", [DOUBLE], False, id="no Python"),
        pytest.param("def double(x):\n    return 2 * x", [DOUBLE, "assert double('a') == 'b'"], False, id="all tests"),
        pytest.param("x = 1", ["def test_it():\n    assert x == 2"], False, id="test functions are called"),
        pytest.param("x = 1", ["def test_it():\n    assert x == 1"], True, id="and may pass"),
        pytest.param(
            "x = 1",
            ["import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(x, 2)"],
            False,
            id="unittest classes run",
        ),
        pytest.param("if __name__ == '__main__':\n    raise SystemExit", ["pass"], True, id="not started by hand"),
        pytest.param("open('kept.txt', 'w').write('1')", ["assert open('kept.txt').read() == '1'"], True, id="writes"),
    ],
)
def test_it_passes_if_its_tests_do(code: str, tests: list[str], passes: bool, kind: Kind) -> None:
    assert run(code, *tests, kind=kind) is passes


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import sys; sys.exit(0)", id="exit before the tests"),
        pytest.param("import os; os._exit(0)", id="exit without a word"),
        pytest.param("import os\nclass X:\n    def __del__(self): os._exit(0)\nX()", id="exit from a destructor"),
        pytest.param("def double(x):\n    import sys; sys.exit(0)", id="exit inside the tests"),
        pytest.param("import builtins\nbuiltins.exec = lambda *_: None", id="a builtin replaced"),
        pytest.param("import builtins\nbuiltins.AssertionError = int\ndouble = lambda x: 1", id="an error replaced"),
        pytest.param(
            "import os\nfor number in range(3, 20):\n    try: os.write(number, b'passed')\n    except OSError: pass",
            id="any word on any channel",
        ),
        pytest.param("import os\nos.write = lambda *_: 1", id="a function of the harness replaced"),
        pytest.param("raise KeyboardInterrupt", id="an interrupt"),
        pytest.param("import os, signal\nos.abort()", id="a crash"),
    ],
)
def test_ending_early_is_no_pass(code: str, kind: Kind) -> None:
    assert run(code, DOUBLE, kind=kind) is False


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("while True: pass", id="a loop"),
        pytest.param("import time; time.sleep(600)", id="a sleep"),
        pytest.param(
            "import signal, time\nfor n in (1, 2, 15, 24):\n    signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
            id="a loop that ignores signals",
        ),
    ],
)
def test_time_is_bounded(code: str, kind: Kind) -> None:
    """Unbounded they outlast this test's own limit; what loops gets no more of the processor than that time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert run(code, "pass", kind=kind, seconds=0.5) is False
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5


def test_memory_is_bounded(kind: Kind) -> None:
    assert run("x = bytearray(200 << 20)", "pass", kind=kind, memory_mb=512) is True
    assert run("x = bytearray(600 << 20)", "pass", kind=kind, memory_mb=512) is False
    assert run("x = []\nwhile True: x.append(bytearray(1 << 20))", "pass", kind=kind, memory_mb=128) is False


STARTED = """
started = 0
try:
    while started < 5000:
        {start}
        started += 1
except (OSError, RuntimeError, MemoryError):
    pass
"""


@pytest.mark.parametrize(
    "start",
    [
        pytest.param("import os; os.fork()", id="forks"),
        pytest.param("import subprocess; subprocess.Popen(['/bin/sleep', '60'])", id="programs"),
        pytest.param("import multiprocessing; multiprocessing.Process(target=print).start()", id="multiprocessing"),
        pytest.param("import os; os.system('sleep 60 &')", id="the shell"),
        pytest.param("import os; os.posix_spawn('/bin/sleep', ['sleep', '60'], {})", id="spawn"),
    ],
)
def test_no_process_can_be_started(start: str, kind: Kind) -> None:
    assert run(STARTED.format(start=start), "assert started == 0", kind=kind) is True


def test_threads_are_bounded(kind: Kind) -> None:
    start = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    # The kernel counts those of anyone but root, whom only the memory of their stacks holds back.
    most = 64 if os.getuid() == 0 else Limits().threads
    assert run(STARTED.format(start=start), f"assert started <= {most}", kind=kind) is True
    limit = "import resource\nassert resource.getrlimit(resource.RLIMIT_NPROC)[0] <= 16"
    assert run("x = 1", limit, kind=kind) is True


def test_there_is_no_network(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        for code in (
            f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)",
            f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)",
            f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
        ):
            assert run(code, "pass", kind=kind) is False
        with pytest.raises(TimeoutError):
            server.accept()


def test_nothing_outside_its_folder_can_be_written(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for code in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "open('../new', 'w')",
        f"import os; os.remove({str(tmp_path / 'mine')!r})",
        f"import os; os.rename({str(tmp_path / 'mine')!r}, 'here')",
        f"import pathlib; pathlib.Path({str(tmp_path / 'mine')!r}).chmod(0)",
        f"import os; os.symlink({str(tmp_path)!r}, 'out'); open('out/new', 'w')",
    ):
        assert run(code, "pass", kind=kind) is False, code
    assert (tmp_path / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_it_writes_is_bounded(kind: Kind) -> None:
    assert run("open('big', 'wb').write(bytes(64 << 20))", "pass", kind=kind, memory_mb=512) is False


def test_it_is_given_no_environment(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert run("import os", "assert 'SECRET_TOKEN' not in os.environ", kind=kind) is True


def test_namespaces_are_the_kernels_doing(kind: Kind) -> None:
    inside = "\n".join(
        f"assert os.readlink('/proc/self/ns/{name}') != {os.readlink(f'/proc/self/ns/{name}')!r}"
        for name in ("user", "net", "pid", "mnt", "ipc")
    )
    closed = "assert os.getpid() == 1\nassert os.statvfs('/').f_flag & os.ST_RDONLY\n"
    rights = "assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()"
    assert run("import os", inside, closed, rights, kind=kind) is (kind == "namespaces")


def test_results_are_in_the_order_of_the_programs(kind: Kind) -> None:
    programs = [Program(f"x = {number % 3}", ("assert x == 0",)) for number in range(9)]
    assert passed(programs, Limits(), kind=kind) == [number % 3 == 0 for number in range(9)]


def test_a_sandbox_that_cannot_be_set_up_is_a_fault_of_the_machine_not_of_the_program() -> None:
    with pytest.raises(EnvironmentFault, match="cannot be set up"):
        passed([Program("x = 1", ())], Limits(written_mb=-1), kind="namespaces")
