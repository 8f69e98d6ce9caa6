"""The command line: one thin function per command; whatever is heavy is imported inside it."""

from __future__ import annotations

import errno
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from llmops.cli import (
    batch,
    bench,
    check,
    compare,
    data,
    doctor,
    evaluate,
    feedback,
    finetune,
    judge,
    merge,
    models,
    plan,
    quantize,
    reproduce,
    route,
    serve,
)
from llmops.errors import Interrupted, LlmopsError
from llmops.libraries import quieten

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


for group in (
    finetune,
    plan,
    evaluate,
    compare,
    judge,
    merge,
    quantize,
    serve,
    route,
    batch,
    bench,
    feedback,
    models,
    reproduce,
    data,
    doctor,
    check,
):
    group.register(app)


def main() -> None:
    """Run the command line.

    Errors a user can cause end in two lines and their exit code, a disk that is full wherever it
    shows; ours in exit code 1, with the traceback in the workspace's log file.
    """
    signal.signal(signal.SIGINT, _interrupted)
    quieten()
    try:
        app()
    except LlmopsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _disk_full(error)
        _our_fault()


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted("interrupted", fix="run the same command again", exit_code=128 + number)


def _disk_full(error: OSError) -> NoReturn:
    place = f" ({error.filename})" if error.filename else ""
    typer.echo(f"error: the disk is full{place}\n  → free some space, then run the same command again", err=True)
    sys.exit(2)


def _our_fault() -> NoReturn:
    import traceback
    from datetime import datetime

    from llmops.workspace import Workspace

    text = f"{datetime.now().isoformat(timespec='seconds')} {sys.argv}\n{traceback.format_exc()}\n"
    last = text.strip().splitlines()[-1]
    try:
        log = Workspace.current().home / "llmops.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
        where = f"the traceback is at the end of {log}"
    except OSError:
        typer.echo(text, err=True)
        where = "the traceback is above"
    typer.echo(f"error: a fault of llmops itself: {last}\n  → {where}; please report it", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
