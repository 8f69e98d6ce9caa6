"""`llmops feedback …` in this process."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from llmops.cli.feedback import register
from llmops.errors import LlmopsError


def run(*arguments: str) -> str:
    """What the command prints.

    Raises:
        LlmopsError: as the command does, which `llmops` itself tells in two lines.
    """
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, ["feedback", *arguments])
    if isinstance(done.exception, LlmopsError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout
