"""A program that serves on this machine for a while: started, waited for, and ended whatever happens."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llmops.processes import end_with_parent


def free_port() -> int:
    """A port that nobody listens on, nor will before it is used.

    It is none of those that the system gives away by itself, to connections and to who asks for any port: between
    this look and the start of a server, one of those would be anybody's.
    """
    given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        number = random.SystemRandom().randrange(given_away // 2, given_away)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", number))
            return number


@contextmanager
def local_server(
    command: Sequence[str | Path],
    *,
    ready: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] = (),
    seconds: float = 120,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once it answers at `ready`; it also ends when this one does, however that ends.

    Args:
        ready: a URL that is answered with success when all is loaded.
        log: gets all that it writes.
        environment: None is that of this process.
        cores: those it runs on; none named are all.
        seconds: that its start may take.

    Raises:
        AssertionError: it did not start; with the end of its log.
    """

    def begin() -> None:
        end_with_parent()
        if cores:
            os.sched_setaffinity(0, cores)

    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, preexec_fn=begin)
    try:
        _wait(process, ready, log, seconds)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str], *, seconds: float = 20) -> None:
    """Ended politely first, and killed where that takes longer."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(ready, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{log.stem} did not start:\n{log.read_text()[-3000:]}")
