"""One process works here; several are started through torchrun, on this node or as part of several nodes.

Run as a module it is one of those processes: `python -m llmops.finetune.launch RUN`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import Interrupted, LlmopsError, TrainingStopped
from llmops.finetune import checkpoint
from llmops.finetune.hold import end_with_launcher, held
from llmops.finetune.job import Outcome, read_error, read_outcome, read_steps, work, write_error
from llmops.finetune.parallel import joined
from llmops.finetune.signals import asked_to_stop
from llmops.libraries import quieten
from llmops.processes import end_with_parent
from llmops.records import Step

if TYPE_CHECKING:
    from llmops.finetune.grpo import Reward

_LOOK_S = 0.5
_LAUNCHED = "LLMOPS_LAUNCHED"
"""Set for processes whose launcher holds the run's folder."""


def launch(run: Path, *, world: int, on_step: Callable[[Step], None] = lambda step: None) -> Outcome:
    """Do the job of the folder `run` with `world` processes on this node.

    Raises:
        InputError: another process does it at this moment.
        LlmopsError: what any of the processes met.
    """
    with held(run):
        (run / "error.json").unlink(missing_ok=True)
        if world == 1 and "MASTER_ADDR" not in os.environ:
            with asked_to_stop() as stop, joined() as processes:
                return work(run, processes, stop=stop, on_step=on_step)
        return _torchrun(run, world, on_step)


def reinforce_here(
    run: Path, rewards: Sequence[Reward], *, on_step: Callable[[Step], None] = lambda step: None
) -> Outcome:
    """Do the job of the folder `run` by the method grpo, in this process.

    Raises:
        As `reinforce`; InputError: another process does it at this moment.
    """
    from llmops.finetune.grpo import reinforce

    with held(run), asked_to_stop() as stop, joined() as processes:
        return reinforce(run, rewards, processes, stop=stop, on_step=on_step)


def threads_for(world: int) -> int:
    """CPU threads each of `world` processes computes with."""
    given = os.environ.get("OMP_NUM_THREADS")
    return int(given) if given else max(1, (os.cpu_count() or 1) // world)


def torchrun_command(run: Path, world: int, environment: dict[str, str]) -> list[str]:
    """The command line that starts `world` processes here.

    Several nodes take `MASTER_ADDR`, `MASTER_PORT`, `NNODES` and `NODE_RANK` from the
    environment; each node runs the same llmops command. One node needs none of them.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}"]
    if "MASTER_ADDR" in environment:
        command += [
            f"--nnodes={environment.get('NNODES', '1')}",
            f"--node-rank={environment.get('NODE_RANK', '0')}",
            f"--master-addr={environment['MASTER_ADDR']}",
            f"--master-port={environment.get('MASTER_PORT', '29500')}",
        ]
    else:
        command.append("--standalone")
    return [*command, "-m", "llmops.finetune.launch", str(run)]


def _torchrun(run: Path, world: int, on_step: Callable[[Step], None]) -> Outcome:
    environment = dict(os.environ)
    # torchrun sets one thread where nothing is said; the same number is part of the run's identity.
    environment["OMP_NUM_THREADS"] = str(threads_for(world))
    environment[_LAUNCHED] = "1"
    (run / "trained.json").unlink(missing_ok=True)
    log = run / "processes.log"
    begun = checkpoint.latest(run / "checkpoints")
    told = checkpoint.read_progress(begun).update if begun else 0
    with log.open("ab") as output, asked_to_stop() as stop:
        child = subprocess.Popen(
            torchrun_command(run, world, environment),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        asked = False
        try:
            while child.poll() is None:
                time.sleep(_LOOK_S)
                told = _tell(run, told, on_step)
                if stop() and not asked:
                    child.send_signal(signal.SIGTERM)
                    asked = True
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        _tell(run, told, on_step)
        if error := read_error(run):
            raise error
        if stop():
            raise Interrupted(
                "stopped by a signal", fix="run the same command again: it goes on from there", exit_code=128 + stop()
            )
    if child.returncode or not (run / "trained.json").is_file():
        raise TrainingStopped(
            f"a training process ended with status {child.returncode}; the others were ended with it",
            fix=f"the reason is at the end of {log}; run the same command again to go on from the last checkpoint",
        )
    return read_outcome(run)


def _tell(run: Path, told: int, on_step: Callable[[Step], None]) -> int:
    """Pass on the updates that were logged since the last look; on a resumed run only the new ones."""
    for step in read_steps(run):
        if step.index > told:
            on_step(step)
            told = step.index
    return told


def main() -> None:
    """One process of a run."""
    run = Path(sys.argv[1])
    quieten()
    # torchrun puts its processes into sessions of their own: they outlive it when it is killed.
    end_with_parent()
    if _LAUNCHED in os.environ:
        end_with_launcher(run)
    with asked_to_stop(end_when_stuck=True) as stop, joined() as processes:
        try:
            work(run, processes, stop=stop)
        except LlmopsError as error:
            if processes.first or not (run / "error.json").exists():
                write_error(run, error)
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
