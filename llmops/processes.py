"""Child processes that never outlive the one that started them, however it ends, and what a process has held."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

# From Linux's headers (sys/prctl.h).
_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36


def end_with_parent() -> None:
    """End this process when the thread that started it ends, where the system can do that (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(128 + signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every process below whose own parent ends, where the system can do that (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """Processes that this one is the parent of by now, ended ones that nobody waited for included (Linux)."""
    own, found = str(os.getpid()), []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold spaces and parentheses itself; state and parent follow the last one.
            parent = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        except (OSError, IndexError):  # it ended meanwhile
            continue
        if parent == own:
            found.append(int(stat.parent.name))
    return found


def end_all_with(variable: str, value: str) -> None:
    """Kill every process in whose environment `variable` was `value` when it started (Linux)."""
    mark = f"{variable}={value}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            ours = mark in environment.read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if ours:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(environment.parent.name), signal.SIGKILL)


def peak_resident() -> int:
    """Bytes of memory that this process has held at most, since it began or the mark was reset.

    By Linux's own mark, because getrusage also counts what a process was before exec: the one that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
