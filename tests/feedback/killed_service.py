"""The rating service as people run it, in a process of its own that is killed without warning and comes back on the
same port and database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from llmops.processes import end_with_parent
from tests.local_server import end, free_port

_START_S = 120


class KilledService:
    """`llmops feedback serve`, started again each time it ends.

    Attributes:
        kills: how often it was killed.
        up: set while it answers.
        ended: how it ended where nobody had killed it.
    """

    def __init__(self, home: Path, log: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.kills = 0
        self.up = threading.Event()
        self.ended: list[int] = []
        self._environment = {**os.environ, "LLMOPS_HOME": str(home)}
        self._log = log
        self._one_at_a_time = threading.Lock()
        self._killed = False
        self._away_s = 0.0
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        self._keeper.start()
        if not self.up.wait(_START_S):
            self.__exit__(None, None, None)
            raise AssertionError(f"the service did not start:\n{self._log.read_text()[-3000:]}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._keeper.join()

    def kill(self, away_s: float = 0.0) -> None:
        """SIGKILL, once it answers; it is started again after `away_s` seconds, and needs some more to be back."""
        with self._one_at_a_time:
            assert self.up.wait(_START_S), "the service did not come back"
            self.up.clear()
            self._killed, self._away_s = True, away_s
            self._process.kill()
            self.kills += 1

    def _keep(self) -> None:
        """In a thread of its own, with which the process ends."""
        command = [sys.executable, "-m", "llmops.cli.main", "feedback", "serve", "--listen", f"127.0.0.1:{self.port}"]
        with self._log.open("wb") as out:
            while not self._over.is_set():
                self._process = subprocess.Popen(
                    command, stdout=out, stderr=out, env=self._environment, preexec_fn=end_with_parent
                )
                if self._answers():
                    self.up.set()
                while self._process.poll() is None and not self._over.wait(0.005):
                    pass
                if self._over.is_set():
                    break
                self.up.clear()
                if not self._killed:
                    # A browser's own connection may hold the port for a moment; that is tried again.
                    self.ended.append(self._process.returncode)
                    self._away_s = 0.2
                self._killed = False
                self._over.wait(self._away_s)
            end(self._process)

    def _answers(self) -> bool:
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None and not self._over.is_set():
            try:
                with urllib.request.urlopen(f"{self.address}/ready", timeout=20):
                    return True
            except (urllib.error.URLError, OSError):
                self._over.wait(0.02)
        return False
