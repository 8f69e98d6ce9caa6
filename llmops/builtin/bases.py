"""The embedded bases `builtin:tiny` and `builtin:small`: small models made on this machine on first use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.builtin.definition import Definition, definition_of, versions
from llmops.errors import EnvironmentFault
from llmops.files import new_folder, write_json
from llmops.processes import end_with_parent

Progress = Callable[[int, int, str], None]
"""Hears (steps done, steps in all, what is being done)."""
_STEP = "step "


def shape(name: str) -> dict[str, Any]:
    """The `config.json` of an embedded base, whether it has been made or not; imports no torch.

    Raises:
        InputError: no embedded base is called so.
    """
    return definition_of(name).config()


def base(name: str, *, cache: Path, on_progress: Progress = lambda done, total, what: None) -> Path:
    """The folder of an embedded base, made now if `cache` does not hold it yet.

    Raises:
        InputError: no embedded base is called so.
    """
    return make(definition_of(name), cache=cache, on_progress=on_progress)


def make(definition: Definition, *, cache: Path, on_progress: Progress = lambda done, total, what: None) -> Path:
    """The folder of the base that `definition` describes, loadable by transformers; made once, whoever asks.

    Its name holds the digest of the definition, so a changed generator makes another base. A second caller waits
    for the first. Interrupted, it leaves nothing; killed, the next call removes what is left.
    """
    folder = cache / "builtin" / f"{definition.name}-{definition.digest()[:16]}"
    if folder.is_dir():
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        # We hold the lock, so nobody is writing these.
        for abandoned in folder.parent.glob(f".{folder.name}.new.*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with new_folder(folder) as fresh:
            _fill(fresh, definition, on_progress)
    return folder


def _fill(folder: Path, definition: Definition, on_progress: Progress) -> None:
    """Make the base in a process of its own: what pre-training leaves in a heap would count as the caller's memory."""
    what = f"pre-training builtin:{definition.name}"
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [sys.executable, "-m", "llmops.builtin.bases", str(folder), json.dumps(asdict(definition))],
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith(_STEP):
                    on_progress(int(line.removeprefix(_STEP)), definition.steps, what)
        except BaseException:
            child.kill()
            raise
        if child.wait():
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise EnvironmentFault(
                f"{what} ended with status {child.returncode}: {said[-1]}",
                fix="check free memory and disk, and that `llmops doctor` finds the train extra; then run it again",
            )


def _fill_here(folder: Path, definition: Definition, on_step: Callable[[int], None]) -> None:
    import torch
    from transformers import GenerationConfig

    from llmops.builtin.pretraining import pretrain
    from llmops.builtin.tokenizer import train_tokenizer

    on_step(0)
    losses: list[float] = []

    def heard(step: int, loss: float) -> None:
        losses.append(loss)
        on_step(step)

    tokenizer = train_tokenizer(definition)
    model = pretrain(definition, tokenizer, heard)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=128,
    )
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    write_json(
        folder / "pretraining.json",
        {
            "definition": asdict(definition),
            "digest": definition.digest(),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "steps": len(losses),
            "final_loss": losses[-1],
        },
    )


def main() -> None:
    """The process that makes one: `python -m llmops.builtin.bases FOLDER DEFINITION`."""
    end_with_parent()
    definition = Definition(**json.loads(sys.argv[2]))
    _fill_here(Path(sys.argv[1]), definition, lambda step: print(f"{_STEP}{step}", flush=True))


if __name__ == "__main__":
    main()
