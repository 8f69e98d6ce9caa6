"""Commands that decide on model versions: approve, reject, promote, rollback, verify, history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmops.errors import EnvironmentFault, InputError
from llmops.registry.decisions import sentence

if TYPE_CHECKING:
    from llmops.registry.decisions import Decision
    from llmops.registry.store import ModelVersion
    from llmops.workspace import Workspace

Reference = Annotated[str, typer.Argument(metavar="NAME[@ALIAS|/VERSION]", help="A model; alone, its newest version.")]
Name = Annotated[str, typer.Argument(help="A model's name.")]
As = Annotated[str | None, typer.Option("--as", help="Who decides; by default the operating system's user.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def approve(
    model: Reference,
    actor: As = None,
    override: Annotated[
        str | None,
        typer.Option(help="Approve without a PASS or with unknown licences, for this reason; shown for ever."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say that a version may be promoted. It needs a PASS, and another person than the one who trained it."""
    from llmops.registry import promote
    from llmops.registry.licence_chain import of_version, unknown

    if override is not None and not override.strip():
        raise InputError("an override needs its reason", fix="write it: --override 'why it is right all the same'")
    workspace, version = version_of(model)
    who = actor or promote.this_person()
    made = promote.approve(version, who, override=override or "", workspace=workspace)
    if override is None and (missing := unknown(of_version(version))):
        typer.echo(f"licences: not known for {'; '.join(missing)}; a promotion will be refused", err=True)
    _tell(made, as_json, next_command=f"llmops models promote {version.reference}")


def reject(
    model: Reference,
    reason: Annotated[str, typer.Option(help="Why; recorded.")],
    actor: As = None,
    as_json: Json = False,
) -> None:
    """Say that a version must not be promoted; an approval it had is gone."""
    from llmops.registry import promote

    workspace, version = version_of(model)
    made = promote.reject(version, actor or promote.this_person(), reason=reason, workspace=workspace)
    _tell(made, as_json, next_command=f"llmops models history {version.name}")


def promote(model: Reference, actor: As = None, as_json: Json = False) -> None:
    """Make an approved version champion, once its bytes were read and checked."""
    from llmops.registry import promote as deciding

    workspace, version = version_of(model)
    made = deciding.promote(version, actor or deciding.this_person(), workspace=workspace)
    _tell(made, as_json, next_command=f"llmops models show {version.name}@champion")


def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; recorded.")] = "",
    actor: As = None,
    as_json: Json = False,
) -> None:
    """Make the previous champion champion again, in one step."""
    from llmops.registry import promote
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    made = promote.rollback(name, actor or promote.this_person(), reason=reason, workspace=workspace)
    _tell(made, as_json, next_command=f"llmops models show {name}@champion")


def verify(
    name: Annotated[str | None, typer.Argument(help="A model's name; by default all of them.")] = None,
    as_json: Json = False,
) -> None:
    """Check decisions, aliases and bytes; an alias that was moved by hand is named and put back."""
    from llmops.registry import promote, store
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    names = [name] if name else store.names(workspace=workspace)
    moved = {one: promote.verify(one, workspace=workspace) for one in names}
    if as_json:
        typer.echo(json.dumps(moved, indent=2))
    else:
        for one, lines in moved.items():
            typer.echo(
                f"{one}: " + ("; ".join(lines) + "; put back" if lines else "decisions, aliases and bytes agree")
            )
    if any(moved.values()):
        wrong = ", ".join(one for one, lines in moved.items() if lines)
        raise EnvironmentFault(
            f"aliases of {wrong} were moved without a decision; they are put back",
            fix="move them with `llmops models promote` and `rollback`, and find out who uses MLflow directly",
        )


def history(name: Name, as_json: Json = False) -> None:
    """Show every decision on a model, the oldest first."""
    from dataclasses import asdict

    from llmops.database import open_database
    from llmops.registry import decisions
    from llmops.workspace import Workspace

    links = decisions.chain(open_database(Workspace.current()), name)
    if as_json:
        typer.echo(json.dumps([asdict(link) for link in links], indent=2))
    else:
        for link in links:
            typer.echo(f"{link.sequence:>3}  {link.time[:16].replace('T', ' ')}  {sentence(link)}")
        typer.echo(f"next: llmops models verify {name}" if links else "no decisions yet")
    decisions.check_chain(links)


def version_of(model: str) -> tuple[Workspace, ModelVersion]:
    from llmops.registry import store
    from llmops.registry.reference import registry_name
    from llmops.workspace import Workspace

    wanted = model if model.startswith("models:/") else f"models:/{model}"
    if (parts := registry_name(wanted)) is None:
        raise InputError(f"{model!r} names no model version", fix="write NAME, NAME@ALIAS or NAME/VERSION")
    workspace = Workspace.current()
    return workspace, store.find(*parts, workspace=workspace)


def _tell(made: Decision, as_json: bool, *, next_command: str) -> None:
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps(asdict(made), indent=2))
        return
    typer.echo(sentence(made))
    typer.echo(f"next: {next_command}")


def register(models: typer.Typer) -> None:
    for command in (approve, reject, promote, rollback, verify, history):
        models.command()(command)
