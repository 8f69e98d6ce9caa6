"""Runs code that nobody has read, in a process of its own: bounded, without network, with nothing to write to.

Two kinds. `namespaces` (Linux, where the kernel lets users make them): the process has its own user, network, process
and mount tables, in which there is no interface, no other process, and nothing writable but a folder in memory.
`refusals` (where it does not): Python itself refuses sockets, processes and writing, which holds against code that
errs, not against code that attacks the interpreter. Both, on Linux: limits of time, memory, threads and file sizes,
an empty environment, and the whole group of processes killed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from llmops.errors import EnvironmentFault

Kind = Literal["namespaces", "refusals"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process: `seconds` of wall time with the interpreter's start, `memory_mb` of address space."""

    seconds: float = 10.0
    memory_mb: int = 512
    threads: int = 16
    """Threads; the kernel does not hold root to it, and without namespaces it counts all that the user runs, so that
    there may be none to have. Starting processes is refused anyway."""
    written_mb: int = 16
    """In all files together, or in each where there are no namespaces."""


@dataclass(frozen=True, slots=True)
class Program:
    """`code`, then each of `tests` in the same module; it passes if none of them raises."""

    code: str
    tests: tuple[str, ...]


def passed(programs: Sequence[Program], limits: Limits, *, kind: Kind | None = None) -> list[bool]:
    """Which of the programs pass their tests; as many run at a time as there are cores.

    A program that ends itself before its tests are through, whatever its exit code, has not passed.

    Args:
        kind: of the sandbox; None takes `available()`.

    Raises:
        EnvironmentFault: the sandbox itself cannot be set up.
    """
    chosen = kind or available()
    if not programs:
        return []
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), len(programs))) as workers:
        return list(workers.map(lambda program: _passes(program, limits, chosen), programs))


@cache
def available() -> Kind:
    """The stronger kind that works here, found by trying it."""
    with contextlib.suppress(EnvironmentFault):
        if _passes(Program("", ()), Limits(), "namespaces"):
            return "namespaces"
    return "refusals"


def _passes(program: Program, limits: Limits, kind: Kind) -> bool:
    # The child shows that it came to the end by a word that the program was not given.
    word = secrets.token_hex(16)
    folder = tempfile.mkdtemp(prefix="llmops-code-")
    job = {**asdict(program), **asdict(limits), "kind": kind, "folder": folder, "word": word}
    # A file without a name: the program cannot open it again, and a long one cannot block a pipe.
    with tempfile.TemporaryFile() as handed:
        handed.write(json.dumps(job).encode())
        handed.seek(0)
        try:
            said = _run(handed.fileno(), folder, limits.seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    proof, _, broken = said.partition(b" ")
    if proof != word.encode():
        return False
    if broken:
        raise EnvironmentFault(
            f"the sandbox for code cannot be set up: {broken.decode(errors='replace')}",
            fix="run the evaluation where processes can be limited (Linux), or leave the scorer `code` out",
        )
    return True


def _run(handed: int, folder: str, seconds: float) -> bytes:
    """What the child wrote before it ended or its time was up; no process of it is left."""
    child = subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", str(Path(__file__).with_name("sandbox_child.py"))],
        stdin=handed,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            # Each thread of a linear-algebra library would take its share of the address space.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        # It ends, speaks or is stopped; a pipe holds all it may say, so nothing is read before.
        ready, _, _ = select.select([child.stdout], [], [], seconds)
        return os.read(child.stdout.fileno(), 1000) if ready else b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
