"""How other commands reach a gateway that runs: a port of this machine, and a token that only its owner can read."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hmac
import json
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.workspace import Workspace

Answer = dict[str, Any]
log = logging.getLogger("llmops.gateway")
_LINE = 1 << 20
_CONNECT_S = 5.0


@contextlib.contextmanager
def only_one(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace's place for a gateway; the system frees it when the process ends, however it does.

    Raises:
        EnvironmentFault: another gateway holds it.
    """
    with (workspace.folder("serve") / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise EnvironmentFault(
                f"a gateway of this workspace runs already (process {lock.read().strip() or 'unknown'})",
                fix="change it with `llmops serve reload`, end it with `llmops serve drain`, or set LLMOPS_HOME to "
                "another workspace",
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextlib.asynccontextmanager
async def listening(workspace: Workspace, commands: Mapping[str, Callable[[], Awaitable[Answer]]]) -> Any:
    """Answer other commands of this workspace until left."""
    token = secrets.token_urlsafe(32)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await asyncio.wait_for(reader.readline(), _CONNECT_S))
            if not hmac.compare_digest(str(asked["token"]).encode(), token.encode()):
                return
            said = await _said_by(commands[asked["command"]])
            writer.write(json.dumps(said).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, KeyError, TypeError, TimeoutError):
            pass  # who asks so is not one of ours
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=_LINE)
    place = _place(workspace)
    _write_secret(place, {"pid": os.getpid(), "port": server.sockets[0].getsockname()[1], "token": token})
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        server.close()


async def _said_by(command: Callable[[], Awaitable[Answer]]) -> Answer:
    """What it answers; a fault of ours is told to who asks, too, and no reason to end."""
    try:
        return await command()
    except LlmopsError as error:
        return {"problem": error.problem, "fix": error.fix}
    except Exception as error:
        log.exception("a command failed")
        said = f"{type(error).__name__}: {error}"
        return {"problem": f"the gateway failed: {said}", "fix": "see what it wrote to its terminal; please report it"}


def ask(command: str, *, workspace: Workspace, seconds: float = 60.0) -> Answer:
    """What the gateway of this workspace answers to a command.

    Raises:
        InputError: none runs, or it refuses.
        EnvironmentFault: it does not answer.
    """
    nobody = InputError("no gateway of this workspace runs", fix="start one: llmops serve GATEWAY")
    try:
        known = json.loads(_place(workspace).read_text(encoding="utf-8"))
        with socket.create_connection(("127.0.0.1", known["port"]), timeout=_CONNECT_S) as connection:
            connection.settimeout(seconds)
            connection.sendall(json.dumps({"token": known["token"], "command": command}).encode() + b"\n")
            with connection.makefile("rb") as file:
                said: Answer = json.loads(file.readline())
    except (FileNotFoundError, ConnectionRefusedError, ValueError, KeyError):
        # A file that a killed gateway left says nothing, and at its port somebody else may answer.
        raise nobody from None
    except OSError as error:
        raise EnvironmentFault(
            f"the gateway (process {known['pid']}) does not answer: {error}", fix="look into its log, or end it"
        ) from error
    if "problem" in said:
        raise InputError(said["problem"], fix=said["fix"])
    return said


def _place(workspace: Workspace) -> Path:
    return workspace.home / "serve" / "control.json"


def _write_secret(path: Path, content: Answer) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".control.")  # only its owner may read it
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(name, path)
