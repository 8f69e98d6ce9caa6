"""A chromium with a profile on disk that is killed without warning and opened again, as after a crash."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Page, Playwright

_START_S = 120


class KilledBrowser:
    """One person's browser; belongs to the thread that opens it, and is killed from any.

    Attributes:
        kills: how often it was killed.
        there: set while it is open.
        killed: it was, since it was opened last.
    """

    def __init__(self, driver: Playwright, program: str, profile: Path) -> None:
        self.kills = 0
        self.killed = False
        self._driver = driver
        self._program = program
        self._profile = profile
        self.there = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._context: Any = None
        self._group = 0

    def open(self) -> Page:
        """A page of a new process on the same profile."""
        self.close()
        self.killed = False
        self._context = self._driver.chromium.launch_persistent_context(
            str(self._profile),
            executable_path=self._program,
            args=["--no-sandbox"],
            viewport={"width": 1000, "height": 600},
        )
        self._group = self._process_group()
        self.there.set()
        page: Page = self._context.pages[0]
        return page

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, as soon as there are any."""
        assert self.there.wait(_START_S), "the browser was not opened again"
        with self._one_at_a_time:
            self.there.clear()
            self.killed = True
            os.killpg(self._group, signal.SIGKILL)
            self.kills += 1

    def close(self) -> None:
        """Leave nothing running."""
        with self._one_at_a_time:
            self.there.clear()
        if self._context is None:
            return
        with contextlib.suppress(Error):
            self._context.close()
        self._context = None
        until = time.monotonic() + _START_S
        while self._processes():
            assert time.monotonic() < until, "processes of the browser are left"
            time.sleep(0.005)

    def _process_group(self) -> int:
        groups = {os.getpgid(number) for number in self._processes()}
        groups.discard(os.getpgid(0))
        assert len(groups) == 1, f"the browser has {len(groups)} process groups"
        return groups.pop()

    def _processes(self) -> list[int]:
        """Those that were given this profile."""
        mark, found = f"--user-data-dir={self._profile}".encode(), []
        for told in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if mark in told.read_bytes():
                    found.append(int(told.parent.name))
        return found
