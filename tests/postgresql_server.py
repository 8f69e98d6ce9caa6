"""A real PostgreSQL in a folder of its own, which ends with the process that started it, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.local_server import free_port

USER = "llmops"


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`, of the newest version Debian has installed; None where there is none."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda path: float(path.parent.name), default=None)


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The address of a running server, to which a database's name is to be added."""
    bin_folder = programs()
    assert bin_folder is not None
    # Not in pytest's folders: those are closed to the user `postgres`, and too deep for a socket's name.
    folder = Path(tempfile.mkdtemp(prefix="llmops-pg-"))
    # The server ends when its parent does, also when that is killed. It refuses to run as root.
    as_user: list[str | Path] = ["setpriv", "--pdeathsig", "INT"]
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user += ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    data, port = folder / "data", free_port()
    log = (folder / "log").open("w")
    server = None
    try:
        initdb: list[str | Path] = [
            bin_folder / "initdb",
            "-D",
            data,
            "-U",
            USER,
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run([*as_user, *initdb], check=True, stdout=log, stderr=log, cwd=folder)
        settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        postgres = [*as_user, bin_folder / "postgres", "-D", data, *options]
        server = subprocess.Popen(postgres, stdout=log, stderr=log, cwd=folder)
        address = f"postgresql://{USER}@127.0.0.1:{port}"
        _wait(address, server, folder / "log")
        yield address
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once: nothing in it is needed any more
            server.wait(30)
        log.close()
        shutil.rmtree(folder)


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    end = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(f"{address}/postgres", connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
