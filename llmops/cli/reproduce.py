"""The command that makes a run again from its record and says how alike the two are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.lifecycle.reproduce import Reproduction

_DIFFERENT = 3


def reproduce(
    run: Annotated[str, typer.Argument(help="A run's folder, the start of its digest, or models:/NAME/VERSION.")],
    out: Annotated[
        Path | None, typer.Option(help="An empty folder for the new run; the workspace's by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is not as it was; train nothing.")] = False,
    margin: Annotated[
        list[str] | None, typer.Option(help="suite.metric=points: the largest difference that is equivalent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Train RUN again from its record, and say whether the result is bit-exact, equivalent or different, and why.

    Exit codes: 0 bit-exact or equivalent within interval, 3 different.
    """
    from llmops.cli.progress import watching
    from llmops.lifecycle.reproduce import plain
    from llmops.lifecycle.reproduce import reproduce as again
    from llmops.lifecycle.run_again import find_run
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    allowed = dict(_allowed(one) for one in margin or ())
    origin = find_run(run, workspace=workspace)
    with watching(quiet=as_json) as listener:
        result = again(origin, workspace=workspace, listener=listener, out=out, dry_run=dry_run, margins=allowed)
    if as_json:
        typer.echo(json.dumps(plain(result), indent=2, ensure_ascii=False))
    else:
        for line in story(result):
            typer.echo(line)
        typer.echo(f"next: {_next(result, run)}")
    if result.finding == "different":
        raise typer.Exit(_DIFFERENT)


def story(result: Reproduction) -> Iterator[str]:
    """The outcome for people, the finding first."""
    because = f" because {'; '.join(result.because)}" if result.because else ""
    yield f"{result.run}: {result.finding}{because}"
    for one in result.margins:
        allowed = f", {one.allowed:g} allowed" if one.allowed is not None else ""
        yield (
            f"  {one.suite}.{one.metric}: {one.first:.4g} → {one.second:.4g}, difference "
            f"{one.low:+.4g} to {one.high:+.4g}{allowed}"
        )
    if result.finding == "not trained":
        known = [f"{change.key}: {change.first} → {change.second}" for change in result.changed]
        yield "  " + ("; ".join(known) if known else "nothing that is recorded has changed")
    for note in result.notes:
        yield f"  {note}"
    if result.folder is not None:
        yield f"run: {result.folder}"


def _allowed(written: str) -> tuple[str, float]:
    name, _, value = written.partition("=")
    try:
        points = float(value)
    except ValueError:
        points = -1.0
    if not name or not 0 <= points < float("inf"):
        raise InputError(f"--margin {written!r} is no suite.metric=points", fix="write for example --margin e2e.bleu=1")
    return name, points


def _next(result: Reproduction, run: str) -> str:
    if result.finding == "not trained":
        return f"llmops reproduce {run}"
    return "llmops models list"


def register(app: typer.Typer) -> None:
    app.command()(reproduce)
