"""`llmops serve FILE` starts a gateway; `serve status`, `reload` and `drain` talk to the one that runs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.errors import InputError
from llmops.serve.control import listening
from llmops.workspace import Workspace
from tests.patience import HANG_S

REPLICA = {"state": "ready", "reason": "", "requests": 3}
STATE: dict[str, Any] = {
    "pid": 7,
    "url": "http://127.0.0.1:8000/v1",
    "file": "g.yaml",
    "refused": "",
    "draining": False,
    "engines": [
        {
            "engine": "small",
            "model": "models:/m@champion",
            "version": "models:/m/2",
            "state": "ready",
            "quantization": "w4a16",
            "note": "models:/m/3 is on its way",
            "replicas": [{**REPLICA, "replica": 0}, {**REPLICA, "replica": 1, "state": "waiting", "reason": "died"}],
        }
    ],
}


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@contextmanager
def gateway(home: Path) -> Iterator[list[str]]:
    """One that answers with `STATE` and remembers what it was told."""
    told: list[str] = []
    started, over = threading.Event(), threading.Event()

    async def live() -> None:
        def command(name: str, answer: dict[str, Any]) -> Any:
            async def run() -> dict[str, Any]:
                told.append(name)
                return answer

            return run

        async def bad() -> dict[str, Any]:
            raise InputError("g.yaml is not a valid gateway", fix="mend it")

        Workspace(home).folder("serve")
        commands = {"status": command("status", STATE), "drain": command("drain", {"under_way": 4}), "reload": bad}
        async with listening(Workspace(home), commands):
            started.set()
            while not over.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert started.wait(HANG_S)
    try:
        yield told
    finally:
        over.set()
        thread.join()


def test_status_shows_each_replica_with_its_version_and_why(workspace: Path) -> None:
    with gateway(workspace):
        head, columns, first, second = invoke("status").splitlines()
        assert json.loads(invoke("status", "--json")) == STATE
    assert head == "g.yaml on http://127.0.0.1:8000/v1 (process 7)"
    assert columns.split() == ["engine", "replica", "state", "version", "requests", "reason"]
    assert first.split("  ")[0] == "small (w4a16)"
    assert all(text in first for text in ("ready", "models:/m/2", "3", "models:/m/3 is on its way"))
    assert "waiting" in second
    assert "died; models:/m/3 is on its way" in second


def test_drain_says_how_many_are_waited_for(workspace: Path) -> None:
    with gateway(workspace) as told:
        assert "requests under way, which are finished: 4" in invoke("drain")
    assert told == ["drain"]


def test_what_the_gateway_refuses_is_told_here(workspace: Path) -> None:
    with gateway(workspace), pytest.raises(InputError, match=r"g\.yaml is not a valid gateway"):
        invoke("reload")


@pytest.mark.parametrize("command", ["status", "reload", "drain"])
def test_without_a_gateway_there_is_nothing_to_talk_to(workspace: Path, command: str) -> None:
    with pytest.raises(InputError, match="no gateway of this workspace runs"):
        invoke(command)


def test_what_is_no_command_is_a_file(workspace: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file nowhere\.yaml"):
        invoke("nowhere.yaml")
    assert "status" in invoke("--help")
    assert "GATEWAY" in invoke("--help")
