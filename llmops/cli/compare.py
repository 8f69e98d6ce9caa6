"""The command that compares two models on the same items."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.eval.compare import Comparison
    from llmops.eval.judge.preference import Preferred
    from llmops.eval.measured import Measured
    from llmops.events import Listener


def compare(
    first: Annotated[str, typer.Argument(help="A model, or a report's file that `llmops eval` wrote.")],
    second: Annotated[str, typer.Argument(help="The model to compare with it, or its report's file.")],
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="Files of eval/suites/, or lm-eval:NAME; not needed for two reports."),
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    changed: Annotated[int, typer.Option(min=0, help="Show so many items that changed most, with both answers.")] = 3,
    slices: Annotated[bool, typer.Option(help="Show slices too.")] = True,
    judge: Annotated[
        Path | None, typer.Option(help="Ask the judge of this suite too, which of both answers to each item is better.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table there, for a pull request.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the page of the comparison there; in the workspace's reports by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Say by how much SECOND differs from FIRST on the same items, and how sure that is."""
    from llmops.cli.progress import watching
    from llmops.eval.compare import compare as run

    with watching(quiet=as_json) as listener:
        pairs = _pairs(first, second, suites or [], listener)
        judged = [None if judge is None else _judged(judge, *pair, confidence, listener) for pair in pairs]
    found = [run(one, two, confidence=confidence) for one, two in pairs]
    if markdown is not None:
        from llmops.eval.comparison_table import to_markdown
        from llmops.files import write_text

        write_text(markdown, "\n".join(to_markdown(one) for one in found))
    if html is not None and len(found) > 1:
        raise InputError(
            f"--html names one page, and {len(found)} suites make as many", fix="leave --html out, or name one suite"
        )
    pages = [_page(one, html) for one in found]
    if as_json:
        rows = [{**_plain(one, changed), **_preference(said)} for one, said in zip(found, judged, strict=True)]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for one, said, page in zip(found, judged, pages, strict=True):
        _print(one, slices=slices, changed=changed)
        if said is not None:
            typer.echo(sentence(said, one.second.name, confidence))
        typer.echo(f"page: {page}")
    typer.echo(f"next: llmops explain gate, to make such a difference a rule for {found[0].second.name}")


def _judged(suite: Path, first: Measured, second: Measured, confidence: float, listener: Listener) -> Preferred:
    from llmops.cli.judge import judge_in
    from llmops.eval.judge.preference import preferred
    from llmops.workspace import Workspace

    scorer = judge_in(suite)
    return preferred(
        scorer.judge(Workspace.current().cache / "judged"),
        first,
        second,
        confidence=confidence,
        unparsed_at_most=scorer.unparsed_at_most,
        listener=listener,
    )


def sentence(said: Preferred, name: str, confidence: float) -> str:
    """What a judge prefers, in words."""
    inconsistent, number = said.counts["inconsistent_share"]
    without = said.counts["unparsed_share"][0]
    return (
        f"\njudge {said.judge['model']} by {said.judge['rubric']['name']}: prefers {name} in {said.win_rate:.1%} "
        f"({confidence:.0%} interval {said.low:.1%} to {said.high:.1%}, p {said.p:.3g}); {said.wins} wins, "
        f"{said.ties} ties, {said.losses} losses; the order changed {inconsistent} of {number} verdicts"
        + (f"; {without} without a verdict are left out" if without else "")
    )


def _preference(said: Preferred | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {} if said is None else {"judge": asdict(said)}


def _pairs(first: str, second: str, suites: list[str], listener: Any) -> list[tuple[Measured, Measured]]:
    from llmops.eval.measured import read

    files = [one.endswith(".json") for one in (first, second)]
    if all(files):
        if suites:
            raise InputError("two reports are compared as they are, without a suite", fix="leave the suites out")
        return [(read(Path(first)), read(Path(second)))]
    if any(files):
        raise InputError(
            f"{first if files[0] else second} is a report's file and the other is a model",
            fix="give two reports, or two models and the suites to measure them on",
        )
    if not suites:
        raise InputError("two models are compared on suites, and none is given", fix="name files of eval/suites/")
    from llmops.config import load
    from llmops.eval.harness_report import PREFIX
    from llmops.eval.items import items_of
    from llmops.eval.suite import Suite
    from llmops.lifecycle.measure import loaded, measure
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    tasks = [name.removeprefix(PREFIX) for name in suites if name.startswith(PREFIX)]
    own = [load(Path(name), Suite, what="suite") for name in suites if not name.startswith(PREFIX)]
    asked = [(suite, items_of(suite)) for suite in own]
    folder = workspace.folder("reports")
    one, two = (
        measure(
            loaded(model, workspace, listener),
            asked,
            folder=folder,
            listener=listener,
            tasks=tasks,
            judged=workspace.cache / "judged",
        )
        for model in (first, second)
    )
    return [(one[name], two[name]) for name in one]


def _page(found: Comparison, file: Path | None) -> Path:
    """The file of the comparison's page, written."""
    from llmops.eval.pages.comparison_page import comparison_page, file_name
    from llmops.files import write_text
    from llmops.workspace import Workspace

    file = file or Workspace.current().folder("reports") / file_name(found.first, found.second)
    write_text(file, comparison_page(found))
    return file


def _print(found: Comparison, *, slices: bool, changed: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    from llmops.eval.comparison_table import heading, table

    # A pipe has no width of its own; a row must not be folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    typer.echo(heading(found))
    console.print(table(found, slices=slices))
    main = found.differences[0]
    typer.echo(
        f"{main.items:,} items; {found.confidence:.0%} paired intervals ({main.method}); so many items show a "
        f"difference of {main.detectable:.3g} in {main.metric} with 80 % power"
    )
    for one in found.changed[:changed]:
        item, other = found.first.items[one.place], found.second.items[one.place]
        console.print(f"\n[bold]{one.metric} {one.change:+.4g}[/bold]  {escape(_short(item.prompt))}")
        console.print(f"  reference  {escape(_short(item.references[0]))}")
        console.print(f"  first      {escape(_short(item.answer))}")
        console.print(f"  second     {escape(_short(other.answer))}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:159] + "…"


def _plain(found: Comparison, changed: int) -> dict[str, Any]:
    import math
    from dataclasses import asdict

    rows = [asdict(one) for one in found.differences]
    return {
        "suite": found.suite,
        "first": {**found.first.model, "report": found.first.digest},
        "second": {**found.second.model, "report": found.second.digest},
        "confidence": found.confidence,
        # JSON has no infinity: an open end is null.
        "differences": [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in rows
        ],
        "changed": [
            {
                "id": found.first.items[one.place].id,
                "metric": one.metric,
                "change": one.change,
                "prompt": found.first.items[one.place].prompt,
                "first": found.first.items[one.place].answer,
                "second": found.second.items[one.place].answer,
            }
            for one in found.changed[:changed]
        ],
    }


def register(app: typer.Typer) -> None:
    app.command()(compare)
