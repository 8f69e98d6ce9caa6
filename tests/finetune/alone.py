"""A run as `llmops finetune` has it, for a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path


def alone(run: Path) -> None:
    """Do the job of the folder `run`; what it ends with is the exit code."""
    from llmops.errors import LlmopsError
    from llmops.finetune.launch import launch

    try:
        launch(run, world=1)
    except LlmopsError as error:
        sys.exit(error.exit_code)
