"""The embedded bases `builtin:tiny` and `builtin:small`: small models made on this machine on first use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.builtin.definition import Definition, definition_of, versions
from llmops.files import new_folder, write_json

Progress = Callable[[int, int, str], None]
"""Hears (steps done, steps in all, what is being done)."""


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
    import torch
    from transformers import GenerationConfig

    from llmops.builtin.pretraining import pretrain
    from llmops.builtin.tokenizer import train_tokenizer

    what = f"pre-training builtin:{definition.name}"
    on_progress(0, definition.steps, what)
    losses: list[float] = []

    def heard(step: int, loss: float) -> None:
        losses.append(loss)
        on_progress(step, definition.steps, what)

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
