"""Who asks a gateway that runs is answered, by it and nobody else, also where it fails."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading

import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.serve.control import Answer, ask, listening
from llmops.workspace import Workspace


async def refused() -> Answer:
    raise EnvironmentFault("too few GPUs", fix="buy one")


async def broken() -> Answer:
    raise KeyError("wanted")


async def fine() -> Answer:
    return {"pid": 1}


def asked(here: Workspace, command: str) -> Answer:
    here.folder("serve")

    async def both() -> Answer:
        async with listening(here, {"refused": refused, "broken": broken, "fine": fine}):
            return await asyncio.to_thread(ask, command, workspace=here)

    return asyncio.run(both())


def test_what_it_says_and_what_it_refuses_is_told(here: Workspace) -> None:
    assert asked(here, "fine") == {"pid": 1}
    with pytest.raises(InputError, match="too few GPUs") as told:
        asked(here, "refused")
    assert told.value.fix == "buy one"


def test_its_own_fault_is_told_and_logged(here: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(InputError, match="the gateway failed: KeyError: 'wanted'"):
        asked(here, "broken")
    assert "KeyError" in caplog.text


def test_a_stranger_at_the_port_of_a_gateway_that_was_killed_is_none(here: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def answer() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        known = {"pid": os.getpid(), "port": stranger.getsockname()[1], "token": "t"}
        (here.folder("serve") / "control.json").write_text(json.dumps(known))
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match="no gateway of this workspace runs"):
            ask("status", workspace=here)
        thread.join()
