"""Commands on the model registry: list, show; those that decide and those that trace have files of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.cli import card, decide, lineage
from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.registry.store import ModelVersion
    from llmops.workspace import Workspace

models = typer.Typer(help="Models and their versions in the registry.", no_args_is_help=True)


@models.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show every model: its newest version, its aliases and its scores."""
    from llmops.registry import store
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    every = {name: store.versions(name, workspace=workspace) for name in store.names(workspace=workspace)}
    if as_json:
        typer.echo(json.dumps([_plain(one) for found in every.values() for one in found], indent=2))
        return
    newest = {name: found[0] for name, found in every.items() if found}
    if not newest:
        typer.echo("no models yet")
        typer.echo("next: llmops finetune RECIPE")
        return
    rows = [
        (
            name,
            str(one.version),
            ", ".join(f"{alias}={other.version}" for other in every[name] for alias in other.aliases) or "-",
            one.kind or "-",
            f"{one.created:%Y-%m-%d %H:%M}",
            _scores(one) or "-",
        )
        for name, one in newest.items()
    ]
    _print_table(("model", "newest", "aliases", "kind", "made (UTC)", "scores"), rows)
    typer.echo(f"next: llmops models show {rows[0][0]}")


@models.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|/VERSION]", help="A model; alone, its newest version.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what one version is: what made it, how it scored and where its bytes are."""
    from llmops.registry import store
    from llmops.registry.connection import without_credentials
    from llmops.registry.licence_chain import TAG, joint, of_version, unknown
    from llmops.registry.reference import registry_name
    from llmops.workspace import Workspace

    wanted = name if name.startswith("models:/") else f"models:/{name}"
    if (parts := registry_name(wanted)) is None:
        raise InputError(f"{name!r} names no model version", fix="write NAME, NAME@ALIAS or NAME/VERSION")
    workspace = Workspace.current()
    one = store.find(*parts, workspace=workspace)
    judged = _judged(one, workspace)
    if as_json:
        typer.echo(json.dumps({**_plain(one), **judged}, indent=2))
        return
    typer.echo(one.reference)
    chain = of_version(one)
    facts = {
        "what": one.description,
        "aliases": ", ".join(one.aliases),
        "made": f"{one.created:%Y-%m-%d %H:%M} UTC",
        "scores": _scores(one),
        "verdict": "; ".join(judged["verdicts"]),
        "decisions": "; ".join(judged["decisions"]),
        "MLflow run": one.run_id,
        "licence": joint(chain) or f"not known: {'; '.join(unknown(chain))}",
        "digest": one.digest,
        "source": without_credentials(one.source),
        **{
            key.removeprefix("llmops.").replace("_", " "): value
            for key, value in sorted(one.tags.items())
            if key.startswith("llmops.") and key not in ("llmops.digest", TAG)
        },
    }
    for key, value in facts.items():
        if value:
            typer.echo(f"  {key:<14} {value}")
    typer.echo(f"next: {_next(one, judged['verdicts'])}")


def _next(one: ModelVersion, verdicts: Sequence[str]) -> str:
    """What is done with a version: it is trained on, or scores where it is a reward model; quantized it is served in
    its original's place, once it passes."""
    from llmops.quantize.schemes import SCHEMES
    from llmops.registry.derived import SCHEME_TAG, VERSION_TAG
    from llmops.registry.reference import registry_name
    from llmops.registry.task import REWARD_MODEL

    scheme, original = one.tags.get(SCHEME_TAG), one.tags.get(VERSION_TAG, "")
    if scheme is None and one.description.startswith(REWARD_MODEL):
        if not verdicts:
            return f"llmops eval {one.reference} SUITE --gate GATE, such as those called quickstart-pairs in eval/"
        return f"llmops eval MODEL SUITE, one of whose scorers is `reward: {{model: {one.reference}}}`"
    if scheme is None:
        return f"llmops finetune RECIPE --set base={one.reference}"
    passed = bool(verdicts) and verdicts[-1].startswith("PASS")
    if passed and registry_name(original) and SCHEMES[scheme].served_by == "vllm":
        return f"llmops serve GATEWAY, an engine of which says {{model: {original}, quantization: {scheme}}}"
    return f"llmops models card {one.name}/{one.version}"


def _judged(one: ModelVersion, workspace: Workspace) -> dict[str, list[str]]:
    """What gates said of a version and what was decided about it, overrides in capitals."""
    from llmops.database import open_database
    from llmops.registry.decisions import chain, sentence
    from llmops.registry.verdicts import verdicts_of

    engine = open_database(workspace)
    verdicts = verdicts_of(engine, one.digest) if one.digest else []
    return {
        "verdicts": [f"{verdict.result} by {verdict.gate} ({verdict.digest[:12]})" for verdict in verdicts],
        "decisions": [sentence(link) for link in chain(engine, one.name) if link.version == one.version],
    }


def _scores(one: ModelVersion) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(one.scores.items()))


def _plain(one: ModelVersion) -> dict[str, Any]:
    return {
        "reference": one.reference,
        "name": one.name,
        "version": one.version,
        "aliases": list(one.aliases),
        "kind": one.kind,
        "digest": one.digest,
        "run_id": one.run_id,
        "created": one.created.isoformat(),
        "description": one.description,
        "source": one.source,
        "scores": dict(one.scores),
        "tags": dict(one.tags),
    }


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def register(app: typer.Typer) -> None:
    decide.register(models)
    lineage.register(models)
    card.register(models)
    app.add_typer(models, name="models")
