"""Commands that measure models: eval."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.eval.measured import Measured
    from llmops.eval.suite import Suite
    from llmops.events import Listener
    from llmops.lifecycle.measure import Suites
    from llmops.records import Verdict
    from llmops.workspace import Workspace


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="builtin:tiny, a folder, models:/name@alias, or a hub id; a name with --endpoint, --answers."
        ),
    ],
    suites: Annotated[
        list[str], typer.Argument(help="Files of eval/suites/; lm-eval:NAME or lm-eval:FILE for a task of lm-eval.")
    ],
    engine: Annotated[Literal["transformers", "vllm"], typer.Option(help="What runs the model.")] = "transformers",
    endpoint: Annotated[
        str | None, typer.Option(help="Ask MODEL of this OpenAI-compatible server, such as http://host:8000/v1.")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Variable that holds the key of --endpoint.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at --endpoint at one time.")] = 16,
    answers: Annotated[
        Path | None, typer.Option(help="Judge the answers in this jsonl, made elsewhere, instead of asking a model.")
    ] = None,
    answer_key: Annotated[
        str, typer.Option(help="Where an answer stands in a line of --answers; dots lead into nested objects.")
    ] = "answer",
    prompt_key: Annotated[
        str, typer.Option(help="Where its prompt stands; a line with an item's `id` needs none.")
    ] = "prompt",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure only so many items of each suite, always the same ones.")
    ] = None,
    gate: Annotated[Path | None, typer.Option(help="Judge by this file of eval/gates/: exit code 0, 3 or 4.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Model or report the gate compares with instead of the version it names; or `none`."),
    ] = None,
    trained: Annotated[
        str | None,
        typer.Option(help="What training left, where MODEL is merged or quantized: for `served_equals`."),
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
    from llmops.eval.harness_report import PREFIX
    from llmops.eval.items import items_of
    from llmops.eval.suite import Suite
    from llmops.workspace import Workspace

    if gate is None and (against or junit or trained):
        raise InputError("there is no gate to judge by", fix="name one with --gate eval/gates/….yaml")
    if api_key_env is not None and endpoint is None:
        raise InputError("--api-key-env is for an --endpoint, and there is none", fix="give both, or none")
    if answers is not None and endpoint is not None:
        raise InputError("answers come from --answers or from --endpoint, not from both", fix="leave one of them out")
    tasks = [name.removeprefix(PREFIX) for name in suites if name.startswith(PREFIX)]
    wanted = [load(Path(name), Suite, what="suite") for name in suites if not name.startswith(PREFIX)]
    if tasks and answers is not None:
        raise InputError("a task of lm-eval asks the model itself", fix="leave --answers or the task out")
    rules = None if gate is None else load(gate, Gate, what="gate")
    if rules is not None:
        from llmops.eval.gates import over_suites
        from llmops.eval.judge.gated import check_judges
        from llmops.eval.verdict import check_gate, check_without_model

        if not tasks:  # what they measure is known once they were run
            metrics = {suite.name: suite.metrics for suite in wanted}
            rules = over_suites(rules, metrics)
            check_gate(rules, metrics)
        check_judges(rules, wanted)
        if answers is not None or endpoint is not None:
            check_without_model(rules)
    asked = [(suite, items_of(suite)) for suite in (wanted if limit is None else map(_limited(limit), wanted))]
    workspace = Workspace.current()
    folder = out or workspace.folder("reports")
    key = None
    if api_key_env is not None:
        from llmops.client import key_in

        key = key_in(api_key_env)
    with watching(quiet=as_json) as listener:
        from llmops.lifecycle.measure import loaded, measure, recorded, served

        if answers is not None:
            subject = recorded(model, answers, prompt=prompt_key, answer=answer_key)
        elif endpoint is not None:
            subject = served(model, endpoint, workspace, key=key, concurrency=concurrency, keep=not no_cache)
        else:
            subject = loaded(model, workspace, listener, through=engine, keep=not no_cache)
        said = None if no_cache else workspace.cache / "judged"
        verdict, stands = None, False
        if rules is None:
            found = measure(subject, asked, folder=folder, listener=listener, tasks=tasks, limit=limit, judged=said)
        else:
            from llmops.files import write_json
            from llmops.lifecycle.gate import Judged, compared_with, kept, verdict_on
            from llmops.registry.verdicts import plain

            other = compared_with(rules, subject.source, against, workspace, listener)
            found = measure(subject, asked, folder=folder, listener=listener, tasks=tasks, limit=limit, judged=said)
            others = _others(other, asked, folder, workspace, listener, through=engine, tasks=tasks, limit=limit)
            source = subject.source
            judged = Judged(None, source, loaded(trained, workspace, listener).source if trained else source, asked)
            verdict = verdict_on(
                rules, judged, found, others, named=str(gate), against=other, workspace=workspace, listener=listener
            )
            write_json(folder / f"verdict-{verdict.digest[:12]}.json", plain(verdict))
            # What was answered elsewhere, in part, or compared with something else is no ground for a promotion.
            whole = limit is None and answers is None and endpoint is None and against is None
            stands = whole and kept(verdict, model, workspace=workspace)
            if stands:
                listener.say(f"verdict {verdict.digest[:12]} stands with {model}; an approval can rest on it")
    _write(found, verdict, junit, markdown)
    if as_json:
        typer.echo(json.dumps(_plain(found, verdict), indent=2, ensure_ascii=False))
    else:
        _print(found, verdict)
        if stands and verdict is not None and verdict.result == "PASS":
            typer.echo(f"next: llmops models approve {model} --as SOMEBODY-ELSE")
        else:
            typer.echo(f"next: {_next(model, suites, found, is_loaded=answers is None and endpoint is None)}")
    if verdict is not None:
        from llmops.eval.verdict import EXIT_CODES

        raise typer.Exit(EXIT_CODES[verdict.result])


def _limited(limit: int) -> Callable[[Suite], Suite]:
    return lambda suite: suite.model_copy(update={"items": suite.items.model_copy(update={"limit": limit})})


def _others(
    other: str | None,
    asked: Suites,
    folder: Path,
    workspace: Workspace,
    listener: Listener,
    *,
    through: Literal["transformers", "vllm"],
    tasks: list[str],
    limit: int | None,
) -> dict[str, Measured]:
    """The reports a gate compares with: of a model, or the one in a file."""
    if other is None:
        return {}
    if other.endswith(".json"):
        from llmops.eval.measured import read

        report = read(Path(other))
        return {str(report.suite["name"]): report}
    from llmops.lifecycle.measure import loaded, measure

    subject = loaded(other, workspace, listener, through=through)
    said = workspace.cache / "judged"
    return measure(subject, asked, folder=folder, listener=listener, tasks=tasks, limit=limit, judged=said)


def _next(model: str, suites: list[str], found: dict[str, Measured], *, is_loaded: bool) -> str:
    """The command that compares: of models where one was loaded, else of reports."""
    if is_loaded:
        return f"llmops compare ANOTHER-MODEL {model} {' '.join(suites)}, to see by how much they differ"
    return f"llmops compare ANOTHER-REPORT {next(iter(found.values())).file}, to see by how much they differ"


def _write(found: dict[str, Measured], verdict: Verdict | None, junit: Path | None, markdown: Path | None) -> None:
    from llmops.eval.junit import to_junit
    from llmops.eval.junit import to_markdown as verdict_markdown
    from llmops.eval.measured import summary
    from llmops.eval.pages.report_page import report_page
    from llmops.eval.report import to_markdown
    from llmops.files import write_text

    for report in found.values():
        if report.file is not None:
            write_text(report.file.with_suffix(".html"), report_page(report, verdict))
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
        if report.file is not None:
            typer.echo(f"page: {report.file.with_suffix('.html')}")
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
