"""The command line: one thin function per command; whatever is heavy is imported inside it."""

from __future__ import annotations

import sys

import typer

from llmops.cli import check
from llmops.errors import LlmopsError

app = typer.Typer(
    name="llmops",
    help="Fine-tune, judge, serve and keep improving your own language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Fine-tune, judge, serve and keep improving your own language models."""


check.register(app)


def main() -> None:
    """Run the command line; errors a user can cause end in two lines and their exit code."""
    try:
        app()
    except LlmopsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
