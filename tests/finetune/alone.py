"""A run as `llmops finetune` has it, for a process of its own or for two that are one run, as torchrun has them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from llmops.finetune.job import Outcome, read_outcome, work
from llmops.records import Step
from tests.killable import killable


def alone(run: Path, until: int | None = None) -> None:
    """Do the job of the folder `run`, standing still after update `until`; what it ends with is the exit code."""
    from llmops.errors import LlmopsError
    from llmops.finetune.launch import launch

    try:
        launch(run, world=1, on_step=_halting(until))
    except LlmopsError as error:
        sys.exit(error.exit_code)


def together(run: Path) -> Outcome:
    """Have two processes do the job of the folder `run`; an AssertionError with their log where one fails."""
    with ranks(run) as waiting:
        while waiting:
            ended = connection.wait([one.sentinel for one in waiting])
            failed = [one for one in waiting if one.sentinel in ended and one.exitcode]
            assert not failed, (run / "processes.log").read_text()
            waiting = [one for one in waiting if one.sentinel not in ended]
    return read_outcome(run)


@contextmanager
def ranks(run: Path, until: int | None = None) -> Iterator[list[BaseProcess]]:
    """Two processes that do the job together and stand still after update `until`; killed on the way out.

    As torchrun starts them, but for the seconds that it and they would spend on imports: they meet at a store that
    this process holds, whose port the system gave.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = [killable(_rank, run, number, store.port, until) for number in range(2)]
    try:
        yield both
    finally:
        for one in both:
            one.kill()
            one.join()


def _rank(run: Path, number: int, port: int, until: int | None) -> None:
    from llmops.finetune.parallel import joined

    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    with (run / "processes.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with joined() as processes:
        work(run, processes, on_step=_halting(until))


def _halting(until: int | None) -> Callable[[Step], None]:
    """Hears of updates and comes back from no later one than `until`: who is killed there has gone no further."""

    def hear(step: Step) -> None:
        while until is not None and step.index >= until:
            signal.pause()

    return hear
