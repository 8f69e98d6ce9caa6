"""What processes decide in a registry until they are killed, or at the same moment as others."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from llmops.errors import LlmopsError
from llmops.registry import store
from llmops.registry.promote import approve, promote, rollback
from llmops.workspace import Workspace


def over_and_over(home: Path, begun: Connection) -> None:
    workspace = Workspace(home)
    one, two = (store.find("m", number, workspace=workspace) for number in "12")
    assert one.version == 1
    begun.send("ready")
    while True:
        approve(two, "ann", workspace=workspace)
        promote(two, "bob", workspace=workspace)
        rollback("m", "ann", reason="rude", workspace=workspace)


def killed_once_decided(home: Path) -> None:
    """Promotes version 2, and ends between the decision and the move of its alias."""
    workspace = Workspace(home)
    promote(
        store.find("m", "2", workspace=workspace),
        "ann",
        workspace=workspace,
        written=lambda decision: os.kill(os.getpid(), signal.SIGKILL),
    )


def racing(home: Path, number: str, start: Connection) -> None:
    """Promotes a version once told to; sends what was wrong, or nothing."""
    workspace = Workspace(home)
    version = store.find("m", number, workspace=workspace)
    start.send("ready")
    start.recv()
    try:
        promote(version, "ann", workspace=workspace)
    except LlmopsError as error:
        start.send(error.problem)
        sys.exit(2)
    start.send("")
