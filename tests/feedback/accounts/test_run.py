"""`llmops feedback serve`: up with one command, ended in order, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault
from llmops.feedback.settings import FeedbackService
from llmops.listening import bound
from tests.patience import HANG_S

ROOT = Path(__file__).parents[3]


class Running:
    """A service in a process of its own, and of a process group of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmops.cli.main", "feedback", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**environment, "LLMOPS_HOME": str(home), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
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

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its status, and all it said."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=HANG_S)
        return self.process.returncode, "\n".join([*self.lines, rest])


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Running] = []

    def one(*arguments: str) -> Running:
        begun.append(Running(tmp_path / "home", *(arguments or ("--listen", "127.0.0.1:0"))))
        return begun[-1]

    yield one
    for running in begun:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


def read(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=HANG_S) as answer:
        return answer.status, answer.read().decode()


def alive_in_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_shows_the_first_admins_link_serves_and_ends_in_order(start: Start) -> None:
    service = start()
    link = service.until(r"(http://127\.0\.0\.1:\d+)(/invitation/\S+)")
    service.until("rating service on http://127")
    assert read(f"{link[1]}/ready") == (200, "ready\n")
    status, page = read(link[0])
    assert status == 200
    assert "You will run this service" in page
    with socket.create_connection(("127.0.0.1", int(link[1].rpartition(":")[2]))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx-long: " + b"x" * 40_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 "), "what never ends is not waited for"
    status, said = service.end()
    assert status == 0, said
    assert "Traceback" not in said
    assert not alive_in_group(service.process.pid)


def test_ctrl_c_ends_it_too_and_a_request_under_way_is_answered(start: Start) -> None:
    service = start()
    found = service.until(r"rating service on (http://127\.0\.0\.1:(\d+))")
    with socket.create_connection(("127.0.0.1", int(found[2]))) as connection:
        head = f"POST /login HTTP/1.1\r\nhost: 127.0.0.1:{found[2]}\r\nconnection: close\r\n"
        connection.sendall(f"{head}content-type: application/json\r\ncontent-length: 2\r\n\r\n".encode())
        assert read(f"{found[1]}/health")[0] == 200
        late = threading.Timer(0.5, lambda: connection.sendall(b"{}"))
        late.start()
        service.process.send_signal(signal.SIGINT)
        assert connection.recv(1000).startswith(b"HTTP/1.1 403 ")
        late.join()
    status, said = service.end(0)
    assert status == 0, said


def test_a_port_in_use_is_said_in_two_lines(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        service = start("--listen", f"127.0.0.1:{port}")
        said, _ = service.process.communicate(timeout=HANG_S)
    assert service.process.returncode == 2
    assert said.splitlines() == [
        f"error: 127.0.0.1:{port} is in use by another program",
        "  → end it, or set `listen` to another port (port 0 takes a free one)",
    ]


def test_an_address_that_is_none_is_said(tmp_path: Path) -> None:
    service = FeedbackService.model_construct(listen="203.0.113.1:8400")
    with pytest.raises(EnvironmentFault, match="is no address of this machine"), bound(service):
        pass
