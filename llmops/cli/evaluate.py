"""Commands that measure models: eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmops.records import Report


def evaluate(
    model: Annotated[str, typer.Argument(help="builtin:tiny, a folder, models:/name@alias, or a hub id.")],
    suites: Annotated[list[Path], typer.Argument(help="Files of eval/suites/.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure only so many items of each suite, always the same ones.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the reports; the workspace's reports by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The reports as JSON, without their items.")] = False,
) -> None:
    """Have MODEL answer the items of each SUITE, and score the answers."""
    from functools import partial

    from llmops.cli.progress import watching
    from llmops.config import load
    from llmops.eval.generate import generate
    from llmops.eval.items import items_of
    from llmops.eval.loading import base_of
    from llmops.eval.run import evaluate as run
    from llmops.eval.suite import Suite
    from llmops.registry.reference import resolve
    from llmops.workspace import Workspace

    wanted = [load(path, Suite, what="suite") for path in suites]
    if limit is not None:
        wanted = [
            suite.model_copy(update={"items": suite.items.model_copy(update={"limit": limit})}) for suite in wanted
        ]
    asked = [(suite, items_of(suite)) for suite in wanted]
    workspace = Workspace.current()
    folder = out or workspace.folder("reports")
    with watching(quiet=as_json) as listener:

        def making(done: int, total: int, what: str) -> None:
            listener.advance(what, done, total)

        source = resolve(model, workspace=workspace, on_progress=making, say=listener.say)
        named = base_of(source.folder)
        base = resolve(named, workspace=workspace, on_progress=making, say=listener.say).folder if named else None
        engine = partial(generate, base=base)
        reports = [run(suite, items, source, generate=engine, out=folder, listener=listener) for suite, items in asked]
    if as_json:
        typer.echo(json.dumps([_plain(report) for report in reports], indent=2, ensure_ascii=False))
        return
    _print(reports)
    again = " ".join(map(str, suites))
    typer.echo(f"next: llmops eval {named or 'ANOTHER-MODEL'} {again}, to compare")


def _print(reports: list[Report]) -> None:
    from rich.console import Console

    from llmops.eval.report import table

    # A pipe has no width of its own; a reference must not be folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table(reports))
    for report in reports:
        cut = round(report.measures["truncated_share"] * report.items)
        if cut:
            typer.echo(f"{report.suite}: {cut} of {report.items} answers were cut; raise its generation.max_tokens")
        typer.echo(f"report: {report.file}")


def _plain(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(report), "file": str(report.file)}


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
