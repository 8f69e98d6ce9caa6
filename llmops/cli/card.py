"""The command that writes a version's card and bill of materials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli.decide import Reference, version_of


def card(
    model: Reference,
    out: Annotated[Path | None, typer.Option(help="Write the card to this file instead of printing it.")] = None,
    bom: Annotated[Path | None, typer.Option(help="Write the bill of materials (CycloneDX 1.6) to this file.")] = None,
) -> None:
    """Print a version's model card as everything on record says today: scores, licences, limits, decisions."""
    from llmops.files import write_text
    from llmops.lifecycle.model_card import bom_of, card_of

    workspace, version = version_of(model)
    if bom is not None:
        write_text(bom, bom_of(version, workspace=workspace))
        typer.echo(f"bill of materials → {bom}", err=out is None)
    text = card_of(version, workspace=workspace)
    if out is None:
        typer.echo(text)
        return
    write_text(out, text)
    typer.echo(f"card → {out}")
    typer.echo(f"next: llmops models lineage {version.name}/{version.version}")


def register(models: typer.Typer) -> None:
    models.command()(card)
