"""One launcher trains in a run's folder at a time, and its processes end with it, however it ends.

The kernel gives a lock up when its process is gone, also after `kill -9`; no file has to be removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from llmops.errors import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def held(run: Path, *, within_s: float = 5.0) -> Iterator[None]:
    """Keep the folder `run` for this process; on a file system without locks nothing is kept.

    Args:
        within_s: how long to wait for a process that is just ending.

    Raises:
        InputError: another process trains there.
    """
    with _lock_file(run).open("ab") as file:
        end = time.monotonic() + within_s
        while not _taken(file.fileno()):
            if time.monotonic() > end:
                raise InputError(
                    f"another process trains in {run} at this moment",
                    fix="wait until it has finished, or stop it first",
                )
            time.sleep(0.1)
        yield


def end_with_launcher(run: Path) -> None:
    """End this process as soon as nobody holds the folder `run`: the one who started it is gone."""
    file = _lock_file(run).open("rb")

    def wait() -> None:
        with file, contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
            os._exit(128 + signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="launcher").start()


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _lock_file(run: Path) -> Path:
    """One a node: several may share the folder, each with a launcher of its own."""
    return run / f".training-{os.environ.get('NODE_RANK', '0')}"
