"""Commands that start a gateway with its engines, and that talk to the one that runs: status, reload, drain."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmops.cli import serve_key, serve_ledger

_START = "start"


class _FileOrCommand(TyperGroup):
    """`llmops serve GATEWAY` beside `llmops serve status`: what is no command is a file."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = [_START, *args]
        return super().resolve_command(ctx, args)


serve = typer.Typer(
    cls=_FileOrCommand,
    help="Start engines and gateway as GATEWAY, a file such as configs/gateway.yaml, says; talk to the one that runs.",
    no_args_is_help=True,
    subcommand_metavar="GATEWAY | COMMAND",
)


@serve.command(_START, hidden=True)
def start(
    gateway: Annotated[Path, typer.Argument(metavar="GATEWAY", help="A file such as configs/gateway.yaml.")],
) -> None:
    """Start the engines and the gateway that GATEWAY describes, and serve until Ctrl-C or SIGTERM."""
    from llmops.cli.progress import watching
    from llmops.serve.gateway import assembled
    from llmops.serve.run import serve as run
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    build = partial(assembled, workspace=workspace)
    with watching() as listener:
        run(gateway, build, workspace=workspace, listener=listener)


@serve.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show each engine that runs: its replicas, what version they serve, how they are and why."""
    from llmops.serve.control import ask
    from llmops.workspace import Workspace

    said = ask("status", workspace=Workspace.current())
    if as_json:
        typer.echo(json.dumps(said, indent=2))
        return
    ending = ", ending" if said["draining"] else ""
    typer.echo(f"{said['file']} on {said['url']} (process {said['pid']}{ending})")
    rows = [row for engine in said["engines"] for row in _rows(engine)]
    head = ("engine", "replica", "state", "version", "requests", "reason")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if said["refused"]:
        typer.echo(f"not taken when it was read again: {said['refused']}")


def _rows(engine: dict[str, Any]) -> list[tuple[str, ...]]:
    version = engine["version"] or engine["model"]
    name = engine["engine"] if not engine["quantization"] else f"{engine['engine']} ({engine['quantization']})"
    return [
        (
            name,
            str(one["replica"]),
            one["state"],
            version,
            str(one["requests"]),
            "; ".join(filter(None, (one["reason"], engine["note"]))),
        )
        for one in engine["replicas"]
    ] or [(name, "-", engine["state"], version, "-", engine["note"])]


@serve.command()
def reload() -> None:
    """Have the gateway that runs read its file again; what is unchanged goes on. A file with faults is not taken."""
    from llmops.serve.control import ask
    from llmops.workspace import Workspace

    said = ask("reload", workspace=Workspace.current(), seconds=600)
    typer.echo(f"{said['file']} was read again: {', '.join(one['engine'] for one in said['engines'])}")
    typer.echo("next: llmops serve status")


@serve.command()
def drain() -> None:
    """End the gateway that runs: new requests are refused, those under way are answered."""
    from llmops.serve.control import ask
    from llmops.workspace import Workspace

    said = ask("drain", workspace=Workspace.current())
    typer.echo(f"the gateway ends; requests under way, which are finished: {said['under_way']}")


def register(app: typer.Typer) -> None:
    serve_key.register(serve)
    serve_ledger.register(serve)
    app.add_typer(serve, name="serve")
