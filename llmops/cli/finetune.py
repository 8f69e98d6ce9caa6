"""The main command: finetune."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from llmops.lifecycle.loop import Result
    from llmops.records import RunManifest


def finetune(
    recipe: Annotated[Path, typer.Argument(help="A file of recipes/.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default in the workspace, named by the run's digest.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe's own, as often as needed.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on with an interrupted run; say what changed if anything did.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="Processes on this machine, one a GPU.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan; load and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Train the model that RECIPE describes, measure it beside its base, judge it by its gate, and register it.

    Run again after an interruption it goes on from the last checkpoint; run again after
    it has finished it answers at once.
    """
    from llmops.config import load
    from llmops.finetune.recipe import Recipe

    wanted = load(recipe, Recipe, what="recipe", overrides=overrides or ())
    if dry_run:
        from llmops.cli.plan import print_plan

        print_plan(wanted, gpus=gpus, gpu=None, as_json=as_json)
        typer.echo(f"next: llmops finetune {recipe}")
        return
    from llmops.cli.progress import watching
    from llmops.lifecycle.loop import finetune as run
    from llmops.workspace import Workspace

    with watching(quiet=as_json) as listener:
        result = run(wanted, workspace=Workspace.current(), out=out, gpus=gpus, resume=resume, listener=listener)
    if as_json:
        typer.echo(json.dumps(_plain(result), indent=2, ensure_ascii=False))
    else:
        _print(result)
    if result.fault is not None:
        raise result.fault
    if result.verdict is not None:
        from llmops.eval.verdict import EXIT_CODES

        raise typer.Exit(EXIT_CODES[result.verdict.result])


def _plain(result: Result) -> dict[str, object]:
    from dataclasses import asdict

    manifest = result.finished.manifest
    return {
        "run": str(result.finished.folder),
        "artifact": str(result.finished.artifact),
        "cached": result.finished.cached,
        "version": result.version.reference if result.version else None,
        "digest": manifest.digest,
        "predicted": dict(manifest.predicted),
        "measured": dict(manifest.measured),
        "held_out": {"loss": manifest.validation_loss, "loss_unit": manifest.loss_unit, **manifest.validation_measures},
        "reports": [{**asdict(report), "file": str(report.file)} for report in result.reports],
        "verdict": None if result.verdict is None else asdict(result.verdict),
    }


def _print(result: Result) -> None:
    from rich.console import Console

    from llmops.cli.progress import duration
    from llmops.eval.report import table, verdict_heading, verdict_table

    manifest = result.finished.manifest
    # A pipe has no width of its own; a rule must not be folded there.
    console = Console(width=None if sys.stdout.isatty() else 200)
    if result.reports:
        console.print(table(result.reports))
    if not result.finished.cached:
        predicted, measured = manifest.predicted, manifest.measured
        console.print(
            f"trained {manifest.steps} updates on {manifest.trained_tokens:,} trained tokens in "
            f"{duration(measured['seconds'])} ({manifest.tokens_per_s:,.0f} tokens/s); peak memory "
            f"{measured['peak_bytes'] / 2**30:.2f} GiB, predicted {predicted['peak_bytes'] / 2**30:.2f}",
            highlight=False,
            soft_wrap=True,
        )
    if manifest.validation_measures:
        console.print(_held_out(manifest))
    if result.verdict is not None:
        typer.echo(verdict_heading(result.verdict))
        console.print(verdict_table(result.verdict))
    typer.echo(f"run: {result.finished.folder}")
    if result.version is not None:
        typer.echo(f"registered: {result.version.reference} ({manifest.kind})")
        typer.echo(f"next: {_next(result, result.version.reference.removeprefix('models:/'))}")


def _held_out(manifest: RunManifest) -> Table:
    """The loss and what the method tells beside it, of the rows that were held out of training."""
    from rich.table import Table

    from llmops.eval.report import shape_of

    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("on held-out rows")
    shown.add_column(manifest.name, justify="right", overflow="fold")
    if manifest.validation_loss is not None:
        shown.add_row(f"loss ({manifest.loss_unit})", f"{manifest.validation_loss:.4f}")
    for name, value in manifest.validation_measures.items():
        shown.add_row(name, f"{value:{shape_of([value])}}")
    return shown


def _next(result: Result, version: str) -> str:
    from llmops.registry.task import scores

    if result.verdict is not None and result.verdict.result == "PASS":
        return f"llmops models approve {version} --as SOMEBODY-ELSE"
    if result.verdict is None and scores(result.finished.manifest):
        return (
            f"llmops eval models:/{version} SUITE --gate GATE, such as quickstart-pairs: the pairs were not trained on"
        )
    return f"llmops models show {version}"


def register(app: typer.Typer) -> None:
    app.command()(finetune)
