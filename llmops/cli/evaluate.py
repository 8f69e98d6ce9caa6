"""Commands that measure models: eval."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from llmops.eval.engines.engine import Engine
    from llmops.eval.items import Item
    from llmops.eval.suite import Suite
    from llmops.events import Listener
    from llmops.records import ModelSource, Report
    from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who answers, by what, and whom a reader would compare it with."""

    source: ModelSource
    engine: Engine
    other: str = "ANOTHER-MODEL"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="builtin:tiny, a folder, models:/name@alias, or a hub id; a name with --endpoint, --answers."
        ),
    ],
    suites: Annotated[list[Path], typer.Argument(help="Files of eval/suites/.")],
    engine: Annotated[Literal["transformers", "vllm"], typer.Option(help="What runs the model.")] = "transformers",
    answers: Annotated[
        Path | None,
        typer.Option(help="Judge the answers of this jsonl, {prompt or id, answer} a line; no model is loaded."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Where --answers has the answer; `answer` by default.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask MODEL of this OpenAI-compatible server, such as http://host:8000/v1.")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Variable that holds the key of --endpoint.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at --endpoint at one time.")] = 16,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask everything anew, and keep no answers.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Measure only so many items of each suite, always the same ones.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the reports; the workspace's reports by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The reports as JSON, without their items.")] = False,
) -> None:
    """Have MODEL answer the items of each SUITE, and score the answers."""
    from llmops.cli.progress import watching
    from llmops.config import load
    from llmops.errors import InputError
    from llmops.eval.items import items_of
    from llmops.eval.run import evaluate as run
    from llmops.eval.suite import Suite
    from llmops.workspace import Workspace

    if column is not None and answers is None:
        raise InputError("--column says where --answers has the answer, and there are none", fix="give both, or none")
    if api_key_env is not None and endpoint is None:
        raise InputError("--api-key-env is for an --endpoint, and there is none", fix="give both, or none")
    if answers is not None and endpoint is not None:
        raise InputError("answers come from --answers or from --endpoint, not from both", fix="leave one of them out")
    whole = [load(path, Suite, what="suite") for path in suites]
    wanted = whole if limit is None else [_limited(suite, limit) for suite in whole]
    asked = [(suite, items_of(suite)) for suite in wanted]
    workspace = Workspace.current()
    with watching(quiet=as_json) as listener:
        if answers is not None:
            among = [item for suite in whole for item in items_of(_limited(suite, None))]
            chosen = _recorded(model, answers, column, [item for _, items in asked for item in items], among)
        elif endpoint is not None:
            key = _key(api_key_env) if api_key_env is not None else None
            chosen = _served(model, endpoint, key, concurrency, workspace, keep=not no_cache)
        else:
            chosen = _loaded(model, engine, workspace, listener, keep=not no_cache)
        folder = out or workspace.folder("reports")
        reports = [
            run(suite, items, chosen.source, generate=chosen.engine, out=folder, listener=listener)
            for suite, items in asked
        ]
    if as_json:
        typer.echo(json.dumps([_plain(report) for report in reports], indent=2, ensure_ascii=False))
        return
    _print(reports)
    typer.echo(f"next: llmops eval {chosen.other} {' '.join(map(str, suites))}, to compare")


def _limited(suite: Suite, limit: int | None) -> Suite:
    return suite.model_copy(update={"items": suite.items.model_copy(update={"limit": limit})})


def _loaded(
    model: str, through: Literal["transformers", "vllm"], workspace: Workspace, listener: Listener, *, keep: bool
) -> _Asked:
    """The model that the reference names, run here."""
    from functools import partial

    from llmops.eval.cache import AnswerCache
    from llmops.eval.engines.transformers import generate as by_transformers
    from llmops.eval.engines.vllm import generate as by_vllm
    from llmops.eval.loading import base_of
    from llmops.registry.reference import resolve

    def making(done: int, total: int, what: str) -> None:
        listener.advance(what, done, total)

    source = resolve(model, workspace=workspace, on_progress=making, say=listener.say)
    named = base_of(source.folder)
    base = resolve(named, workspace=workspace, on_progress=making, say=listener.say) if named else None
    cache = AnswerCache(workspace.cache / "answers", source.digest, base.digest if base else None) if keep else None
    generate = by_vllm if through == "vllm" else by_transformers
    engine = partial(generate, source.folder, base=base.folder if base else None, cache=cache)
    return _Asked(source, engine, named or "ANOTHER-MODEL")


def _recorded(name: str, file: Path, column: str | None, items: Sequence[Item], among: Sequence[Item]) -> _Asked:
    """The answers of a file, as those of a model called `name`."""
    from llmops.eval.engines.recorded import ANSWER, recorded
    from llmops.records import ModelSource

    engine = recorded(file, items, column=column or ANSWER, among=among)
    return _Asked(ModelSource(name, file.absolute(), None, engine.digest), engine)


def _served(model: str, url: str, key: str | None, concurrency: int, workspace: Workspace, *, keep: bool) -> _Asked:
    """The model that a server has under this name."""
    from functools import partial

    from llmops.eval.cache import AnswerCache
    from llmops.eval.engines.endpoint import SEEN, endpoint
    from llmops.records import ModelSource

    engine = endpoint(url, model, key=key, concurrency=concurrency)
    cache = AnswerCache(workspace.cache / "answers", engine.digest) if keep else None
    return _Asked(ModelSource(model, Path(), SEEN, engine.digest), partial(engine, cache=cache))


def _key(variable: str) -> str:
    from llmops.errors import InputError

    key = os.environ.get(variable, "")
    if not key.strip():
        raise InputError(f"the variable {variable} is empty or not set", fix=f"put the key there: export {variable}=…")
    return key.strip()


def _print(reports: list[Report]) -> None:
    from rich.console import Console

    from llmops.eval.report import table

    # A pipe has no width of its own; a reference must not be folded there.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table(reports))
    for report in reports:
        cut = round(report.measures.get("truncated_share", 0.0) * report.items)
        if cut:
            typer.echo(f"{report.suite}: {cut} of {report.items} answers were cut; raise its generation.max_tokens")
        typer.echo(f"report: {report.file}")


def _plain(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(report), "file": str(report.file)}


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)
