"""The command that makes an adapter and its base one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.finetune.merge import MergeReport


def merge(
    adapter: Annotated[str, typer.Argument(help="A run's artifact folder, or any folder peft can load.")],
    base: Annotated[str | None, typer.Option(help="The unquantized base; left out: the one the adapter names.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the model goes; left out: beside the adapter.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32; left out: the base's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The checks as JSON.")] = False,
) -> None:
    """Merge ADAPTER into its base, and write the result only if it is what the two were together."""
    from llmops.cli.progress import watching
    from llmops.registry.reference import resolve
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    with watching(quiet=as_json) as listener:
        folder = resolve(adapter, workspace=workspace, say=listener.say).folder
        # Checked before transformers is imported, so that a wrong path is answered at once.
        wanted = base or _recorded(folder)
        source = resolve(
            wanted,
            workspace=workspace,
            on_progress=lambda done, total, what: listener.advance(what, done, total),
            say=listener.say,
        )
        if base is None:
            listener.say(f"base: {wanted}, as the adapter says")
        from llmops.finetune.merge import merge as merge_into

        report = merge_into(
            folder, base=source.folder, out=out or _beside(folder), dtype=dtype, on_progress=listener.say
        )
    if as_json:
        typer.echo(json.dumps(_plain(report), indent=2))
        return
    _print(report)
    typer.echo(f"merged → {report.out}")
    typer.echo(f"next: llmops eval {report.out} SUITE")


def register(app: typer.Typer) -> None:
    app.command()(merge)


def _recorded(folder: Path) -> str:
    from llmops.finetune.adapter import recorded_base

    found = recorded_base(folder)
    if found is None:
        raise InputError(f"the adapter {folder} does not say which base it was trained on", fix="name it with --base")
    return found


def _beside(adapter: Path) -> Path:
    return adapter.with_name("merged" if adapter.name == "artifact" else f"{adapter.name}-merged")


def _plain(report: MergeReport) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(report) | {"out": str(report.out)}


def _print(report: MergeReport) -> None:
    from rich.console import Console
    from rich.table import Table

    over = f"{report.positions} positions"
    lines = [
        ("equals the adapter", f"KL {report.kl_to_adapter:.1e} nats", f"at most {report.kl_tolerance:.0e}, {over}"),
        ("same likeliest token", f"{report.argmax_agreement:.1%}", "elsewhere nearly tied"),
        ("effect lost to rounding", f"{report.effect_lost:.1%}", f"weights in {report.dtype}"),
        ("differs from the base", f"KL {report.kl_to_base:.1e} nats", f"{report.changed_tensors} tensors changed"),
        ("embeddings", "tied" if report.tied else "untied", "as config.json says"),
        ("reads back", "bit for bit", "logits of the written folder"),
    ]
    if report.kl_to_quantized is not None:
        lines.append(("from the quantized base", f"KL {report.kl_to_quantized:.1e} nats", "what quantization did"))
    table = Table(box=None, pad_edge=False)
    for column in ("check", "found", "note"):
        table.add_column(column)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
