"""Commands that measure models: eval."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.eval.measured import Measured
    from llmops.events import Listener
    from llmops.lifecycle.measure import Suites
    from llmops.records import Verdict
    from llmops.workspace import Workspace


def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="builtin:tiny, a folder, models:/name@alias, or a hub id; with --answers any name."),
    ],
    suites: Annotated[list[Path], typer.Argument(help="Files of eval/suites/.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure only so many items of each suite, always the same ones.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Judge the answers in this jsonl, made elsewhere, instead of asking a model.")
    ] = None,
    answer_key: Annotated[
        str, typer.Option(help="Where an answer stands in a line of --answers; dots lead into nested objects.")
    ] = "answer",
    prompt_key: Annotated[
        str, typer.Option(help="Where its prompt stands; a line with an item's `id` needs none.")
    ] = "prompt",
    gate: Annotated[Path | None, typer.Option(help="Judge by this file of eval/gates/: exit code 0, 3 or 4.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Model or report that the gate's rules compare with; by default none.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the verdict there as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write scores and verdict there as Markdown.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask everything anew, and keep no answers.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the reports; the workspace's reports by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The reports as JSON, without their items.")] = False,
) -> None:
    """Have MODEL answer the items of each SUITE, score the answers, and judge them where a gate is given.

    Exit codes with a gate: 0 it passes, 3 it fails, 4 there are too few items to tell.
    """
    from llmops.cli.progress import watching
    from llmops.config import load
    from llmops.eval.gates import Gate
    from llmops.eval.items import items_of
    from llmops.eval.suite import Suite
    from llmops.workspace import Workspace

    if gate is None and (against or junit):
        raise InputError("there is no gate to judge by", fix="name one with --gate eval/gates/….yaml")
    wanted = [load(path, Suite, what="suite") for path in suites]
    rules = None if gate is None else load(gate, Gate, what="gate")
    if rules is not None:
        from llmops.eval.verdict import check_gate

        check_gate(rules, {suite.name: suite.metrics for suite in wanted})
    if limit is not None:
        wanted = [
            suite.model_copy(update={"items": suite.items.model_copy(update={"limit": limit})}) for suite in wanted
        ]
    asked = [(suite, items_of(suite)) for suite in wanted]
    workspace = Workspace.current()
    folder = out or workspace.folder("reports")
    with watching(quiet=as_json) as listener:
        if answers is None:
            from llmops.lifecycle.measure import measure

            found = measure(model, asked, folder=folder, workspace=workspace, listener=listener, keep=not no_cache)
        else:
            found = _recorded(model, asked, answers, prompt_key, answer_key, folder, listener)
        others = _others(against, asked, folder, workspace, listener)
    verdict = None
    if rules is not None:
        from llmops.eval.verdict import judge
        from llmops.files import write_json
        from llmops.registry.verdicts import plain

        verdict = judge(rules, found, others, name=str(gate), against=against)
        write_json(folder / f"verdict-{verdict.digest[:12]}.json", plain(verdict))
    _write(found, verdict, junit, markdown)
    if as_json:
        typer.echo(json.dumps(_plain(found, verdict), indent=2, ensure_ascii=False))
    else:
        _print(found, verdict)
        other, this = "ANOTHER-MODEL", f"{model} {' '.join(map(str, suites))}"
        if answers is not None:
            other, this = "ANOTHER-REPORT", str(next(iter(found.values())).file)
        typer.echo(f"next: llmops compare {other} {this}, to see by how much they differ")
    if verdict is not None:
        from llmops.eval.verdict import EXIT_CODES

        raise typer.Exit(EXIT_CODES[verdict.result])


def _recorded(
    name: str, asked: Suites, file: Path, prompt: str, answer: str, folder: Path, listener: Listener
) -> dict[str, Measured]:
    """Reports of answers that stand in a file."""
    from llmops.eval.engines.recorded import Recorded
    from llmops.eval.measured import read
    from llmops.eval.run import evaluate as run
    from llmops.records import ModelSource

    engine = Recorded(file, prompt=prompt, answer=answer)
    source = ModelSource(name, file.parent, None, engine.digest())
    found = {}
    for suite, items in asked:
        report = run(suite, items, source, generate=engine, out=folder, listener=listener)
        assert report.file is not None
        found[suite.name] = read(report.file)
    return found


def _others(
    against: str | None, asked: Suites, folder: Path, workspace: Workspace, listener: Listener
) -> dict[str, Measured]:
    """The reports a gate compares with: of a model, or the one in a file."""
    if against is None:
        return {}
    if against.endswith(".json"):
        from llmops.eval.measured import read

        report = read(Path(against))
        return {str(report.suite["name"]): report}
    from llmops.lifecycle.measure import measure

    return measure(against, asked, folder=folder, workspace=workspace, listener=listener)


def _write(found: dict[str, Measured], verdict: Verdict | None, junit: Path | None, markdown: Path | None) -> None:
    from llmops.eval.junit import to_junit
    from llmops.eval.junit import to_markdown as verdict_markdown
    from llmops.eval.measured import summary
    from llmops.eval.report import to_markdown
    from llmops.files import write_text

    if junit is not None and verdict is not None:
        write_text(junit, to_junit(verdict))
    if markdown is not None:
        parts = [to_markdown([summary(report) for report in found.values()])]
        write_text(markdown, "\n".join([*parts, *([verdict_markdown(verdict)] if verdict else [])]))


def _print(found: dict[str, Measured], verdict: Verdict | None) -> None:
    from rich.console import Console

    from llmops.eval.measured import summary
    from llmops.eval.report import table, verdict_heading, verdict_table

    # A pipe has no width of its own; a reference must not be folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table([summary(report) for report in found.values()]))
    for name, report in found.items():
        cut = sum(item.finish == "length" for item in report.items)
        if cut:
            typer.echo(f"{name}: {cut} of {len(report.items)} answers were cut; raise its generation.max_tokens")
        typer.echo(f"report: {report.file}")
    if verdict is not None:
        typer.echo(verdict_heading(verdict))
        console.print(verdict_table(verdict))


def _plain(found: dict[str, Measured], verdict: Verdict | None) -> dict[str, Any]:
    from dataclasses import asdict

    from llmops.eval.measured import summary

    reports = [{**asdict(summary(report)), "file": str(report.file)} for report in found.values()]
    return {"reports": reports, "verdict": None if verdict is None else asdict(verdict)}


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
