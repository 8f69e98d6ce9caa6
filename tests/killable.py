"""Processes to be killed, without the seconds that imports take: forked from one that has loaded what they need."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

KILLABLE = pytest.mark.xdist_group("killable")
"""For tests that use it: the process with all that is loaded is one for them all."""

_LOADED = [
    "pytest",
    "torch",
    "torch.distributed.fsdp",
    "accelerate",
    "peft",
    "transformers.models.llama.modeling_llama",
    "llmops.finetune.launch",
    "llmops.finetune.model",
    "llmops.finetune.train",
    "llmops.eval.engines.transformers",
    "llmops.eval.run",
    "mlflow.tracking",
    "alembic.command",
    "sqlalchemy",
    "psycopg",
    "llmops.registry.promote",
    "llmops.registry.store",
]


def killable(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A started process that does `work`, a function of a module, in the environment and folder of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    child = context.Process(target=_as_here, args=(dict(os.environ), os.getcwd(), work, arguments))
    child.start()
    return child


def _as_here(environment: dict[str, str], folder: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threads = environment.get("OMP_NUM_THREADS")
    if threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))
    work(*arguments)
