"""Killed at any moment, a decision is made or not made: the chain is whole and the aliases follow from it."""

from __future__ import annotations

import random
import signal
import time
from multiprocessing import Pipe

from llmops.database import open_database
from llmops.registry.connection import connect
from llmops.registry.decisions import chain, check_chain
from llmops.registry.promote import rollback, standing, verify
from llmops.workspace import Workspace
from tests.killable import KILLABLE, killable
from tests.patience import HANG_S
from tests.registry.deciding import over_and_over
from tests.registry.registrations import Registrar, champion

KILLS = 5


@KILLABLE
def test_at_any_moment(workspace: Workspace, make: Registrar, each_database: str) -> None:
    champion(make(), workspace)
    make()
    chance = random.Random(17)
    longest = 0
    for _ in range(KILLS):
        here, there = Pipe()
        child = killable(over_and_over, workspace.home, there)
        assert here.poll(2 * HANG_S)
        assert here.recv() == "ready"
        time.sleep(chance.uniform(0.0, 0.4))
        child.kill()
        child.join(HANG_S)
        assert child.exitcode == -signal.SIGKILL, "it was still deciding"
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
