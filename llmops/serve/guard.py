"""The process between llmops and a server: whoever of the two ends first, nothing the server started is left.

Its arguments are LIFELINE SCRATCH COMMAND…. LIFELINE is the number of a pipe's reading end, whose
writing end llmops alone has open: the system closes it when llmops ends, by SIGKILL too. SCRATCH is a folder that is
removed in the end. The guard ends with the server's status, 128 + n where signal n ended it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from types import FrameType

from llmops.processes import adopt_orphans, children, end_with_parent

GRACE_S = 8.0
"""Seconds a server gets to end by itself after SIGTERM."""
_ORPHANS_S = 2.0
"""Seconds that what it leaves behind gets."""
_POLL_S = 0.05


def main() -> None:
    lifeline, scratch, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; llmops says when it is over
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    asked = []

    def terminate(number: int, _: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # wakes the wait below
    # A group of its own, so that all of it can be told; and where the guard is killed, the server ends with it.
    server = subprocess.Popen(command, process_group=0, preexec_fn=_as_server)
    ending: float | None = None
    while server.poll() is None:
        left = None if ending is None else max(0.0, ending - time.monotonic())
        ready, _, _ = select.select([woken] if asked else [woken, lifeline], [], [], left)
        if woken in ready:
            os.read(woken, 4096)
        if lifeline in ready:
            asked.append(signal.SIGTERM)
        if asked and ending is None:
            ending = time.monotonic() + GRACE_S
            server.terminate()
        elif ending is not None and time.monotonic() >= ending:
            server.kill()
            server.wait()
    _end_orphans()
    shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(server.returncode if server.returncode >= 0 else 128 - server.returncode)


def _as_server() -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_orphans() -> None:
    """End all that the server started: its orphans are children of this process now, and so will be theirs."""
    until = time.monotonic() + _ORPHANS_S
    told: set[int] = set()
    while left := children():
        late = time.monotonic() >= until
        for process in left:
            if late or process not in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
                told.add(process)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if children():
            time.sleep(_POLL_S)
