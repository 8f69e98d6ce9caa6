"""A gateway process from start to end: told from outside, ended in order, and leaving nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.serve.control import ask
from llmops.workspace import Workspace
from tests.patience import HANG_S
from tests.serve.stand_in import MakeModel, Vllm
from tests.serve.test_guard import alive, all_end

ROOT = Path(__file__).parents[2]


class Running:
    """A gateway in a process of its own, in front of the engine that stands in for vLLM."""

    def __init__(self, file: Path, home: Path, command: Sequence[str] = ("tests.serve.application",)) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *command, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "LLMOPS_HOME": str(home)},
        )
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """The first line that fits; the test fails where it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := re.search(pattern, line):
                return found
        raise AssertionError("\n".join(self.lines))


Start = Callable[..., Running]


@pytest.fixture
def file(vllm: Vllm, make_model: MakeModel, tmp_path: Path) -> Path:
    place = tmp_path / "gateway.yaml"
    place.write_text(
        f"listen: 127.0.0.1:0\nengines:\n  a: {{model: {make_model('m')}, python: {vllm.python}, max_length: 64}}\n"
        "routes: {r: {policy: direct, engine: a}}\nlimits: {drain_s: 20}\n"
    )
    return place


@pytest.fixture
def start(file: Path, here: Workspace) -> Iterator[Start]:
    """Starts a gateway each time it is called."""
    started: list[Running] = []

    def another(*command: str) -> Running:
        started.append(Running(file, here.home, command or ("tests.serve.application",)))
        return started[-1]

    yield another
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def running(start: Start) -> Running:
    return start()


def test_it_is_asked_told_drained_and_leaves_nothing(
    running: Running, start: Start, vllm: Vllm, here: Workspace, file: Path
) -> None:
    running.until("no `keys`: everybody on this machine may ask, and nobody else, for it listens on 127.0.0.1 only")
    url = running.until(r"ready: r on (http://\S+)")[1].removesuffix("/v1")
    said = ask("status", workspace=here)
    assert said["pid"] == running.process.pid
    (engine,) = said["engines"]
    assert (engine["engine"], engine["state"], engine["replicas"][0]["starts"]) == ("a", "ready", 1)
    control = here.home / "serve" / "control.json"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600

    # A second gateway of this workspace is refused.
    second = start()
    second.until(r"a gateway of this workspace runs already \(process \d+\)")
    assert second.process.wait() == 2

    # A bad file is not taken; told to who asked, and kept for who asks later.
    good = file.read_text()
    file.write_text(good.replace("engine: a", "engine: b"))
    with pytest.raises(InputError, match="there is no engine 'b'"):
        ask("reload", workspace=here)
    os.kill(running.process.pid, signal.SIGHUP)
    running.until("is not taken, everything goes on as before")
    assert "there is no engine 'b'" in ask("status", workspace=here)["refused"]
    for other in ("listen: 127.0.0.2:0", "ledger: {keep_days: 3}", "telemetry: {trace_share: 0.5}"):
        file.write_text(
            other + "\n" + good.replace("listen: 127.0.0.1:0\n", "" if "listen" in other else "listen: 127.0.0.1:0\n")
        )
        with pytest.raises(InputError, match=f"`{other.partition(':')[0]}` cannot be changed while it runs"):
            ask("reload", workspace=here)
    file.write_text(good.replace("max_length: 64", "max_length: 32"))
    assert ask("reload", workspace=here)["refused"] == ""

    # That keys are gone from the file is said as at the start.
    for lines in (file.read_text() + "keys: {file: keys.json}\n", file.read_text()):
        file.write_text(lines)
        ask("reload", workspace=here)
    running.until("no `keys`: everybody on this machine may ask")

    # Draining lets a stream end that has begun.
    with urllib.request.urlopen(f"{url}/stream") as stream:
        begun = stream.read(1)
        ask("drain", workspace=here)
        running.until("ending: ")
        assert re.fullmatch(rb"\.{5,}end", begun + stream.read())
    assert running.process.wait(timeout=HANG_S) == 0
    assert not any(map(alive, vllm.processes()))
    assert not control.exists()
    with pytest.raises(InputError, match="no gateway of this workspace runs"):
        ask("status", workspace=here)


def test_killed_it_leaves_no_engine_and_no_lock(running: Running, start: Start, vllm: Vllm, here: Workspace) -> None:
    running.until("ready: r on ")
    started = vllm.processes()
    assert all(map(alive, started))
    running.process.kill()
    running.process.wait()
    assert all_end(started)
    with pytest.raises(InputError, match="no gateway of this workspace runs"):
        ask("status", workspace=here)
    again = start()
    again.until("ready: r on ")
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(timeout=HANG_S) == 0
    assert not any(map(alive, vllm.processes()))


def test_a_port_in_use_is_told_before_an_engine_starts(start: Start, vllm: Vllm, file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(file.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        refused = start()
        refused.until(rf"error: 127\.0\.0\.1:{port} is in use by another program")
        refused.until("→ end it, or set `listen` to another port")
        assert refused.process.wait() == 2
    assert vllm.starts() == []


def test_beyond_this_machine_it_does_not_listen_without_keys(start: Start, vllm: Vllm, file: Path) -> None:
    file.write_text(file.read_text().replace("127.0.0.1:0", "0.0.0.0:0"))
    refused = start()
    refused.until("others could reach it: name `keys`, or listen on 127.0.0.1")
    assert refused.process.wait() == 2
    assert vllm.starts() == []


def test_a_stranger_is_not_answered(running: Running, here: Workspace) -> None:
    running.until("gateway on ")
    known = json.loads((here.home / "serve" / "control.json").read_text())
    for asked in (b'{"token": "guess", "command": "drain"}\n', b"GET / HTTP/1.1\r\n\r\n", b"[]\n"):
        with socket.create_connection(("127.0.0.1", known["port"])) as connection:
            connection.sendall(asked)
            assert connection.recv(100) == b""
    assert running.process.poll() is None


def test_the_command_answers_through_the_whole_gateway_and_ends_on_sigterm(
    start: Start, vllm: Vllm, here: Workspace
) -> None:
    gateway = start("llmops.cli.main", "serve")
    url = gateway.until(r"ready: r on (http://\S+)")[1]
    body = json.dumps({"model": "r", "prompt": "hello", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["x-request-id"]
        said = json.loads(answer.read())
    assert said["usage"]["completion_tokens"] == 1
    assert ask("status", workspace=here)["engines"][0]["state"] == "ready"
    gateway.process.send_signal(signal.SIGTERM)
    gateway.until("ending: requests under way, which get up to")
    assert gateway.process.wait(timeout=HANG_S) == 0
    assert not any(map(alive, vllm.processes()))
    with sqlite3.connect(here.home / "llmops.db") as database:
        ((engine, status),) = database.execute("SELECT engine, status FROM requests").fetchall()
    database.close()
    assert (engine, status) == ("a", 200)
