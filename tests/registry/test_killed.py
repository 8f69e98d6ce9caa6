"""Killed at any moment, a decision is made or not made: the chain is whole and the aliases follow from it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

from llmops.database import open_database
from llmops.registry.connection import connect
from llmops.registry.decisions import chain, check_chain
from llmops.registry.promote import rollback, standing, verify
from llmops.workspace import Workspace
from tests.registry.registrations import Registrar, champion

# A process decides over and over, until it is killed; packages are loaded before, so that a kill falls into the work.
DECIDING = """
import sys
from pathlib import Path
from llmops.registry import store
from llmops.registry.promote import approve, promote, rollback
from llmops.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
one, two = (store.find("m", number, workspace=workspace) for number in "12")
print("ready", flush=True)
while True:
    approve(two, "ann", workspace=workspace)
    promote(two, "bob", workspace=workspace)
    rollback("m", "ann", reason="rude", workspace=workspace)
"""
KILLS = 5


def test_at_any_moment(workspace: Workspace, make: Registrar, each_database: str) -> None:
    champion(make(), workspace)
    make()
    chance = random.Random(17)
    longest = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DECIDING, str(workspace.home)], stdout=subprocess.PIPE, text=True
        )
        with process as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.4))
            child.send_signal(signal.SIGKILL)
            assert child.wait(30) == -signal.SIGKILL, "it was still deciding"
        links = chain(open_database(workspace), "m")
        check_chain(links)
        assert len(links) >= longest, "nothing is lost"
        longest = len(links)
        verify("m", workspace=workspace)
        now = standing(links)
        found = connect(workspace.tracking_uri).get_registered_model("m").aliases
        assert {alias: int(number) for alias, number in found.items()} == now.aliases()
        assert now.champion in (1, 2)
        assert now.champion in now.approved, "never a champion without approval"
        if now.champion == 2:
            # What was promoted last is taken back, so that the next process begins where it can.
            rollback("m", "ann", workspace=workspace)
    assert longest > 4, "some decisions were made"
