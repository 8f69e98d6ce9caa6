"""The command that shows what was served: requests, tokens, cost and latency."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.serve.ledger_usage import Usage

_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


class By(StrEnum):
    """What a line of the table stands for."""

    route = "route"
    engine = "engine"
    version = "version"
    key = "key"


def ledger(
    by: Annotated[By, typer.Option(help="One line for each.")] = By.route,
    since: Annotated[str, typer.Option(help="From when: 30m, 24h, 7d, 4w ago, or 2026-11-01 (UTC).")] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show requests, tokens, cost and latency from the ledger."""
    from dataclasses import asdict

    from llmops.database import open_database
    from llmops.serve.ledger_usage import usage
    from llmops.workspace import Workspace

    start = _start(since, time.time())
    lines = usage(open_database(Workspace.current()), by.value, since=start)
    if as_json:
        typer.echo(json.dumps([{by.value: one.name, **_without_name(asdict(one))} for one in lines], indent=2))
        return
    if not lines:
        typer.echo(f"no requests since {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M} UTC")
        typer.echo("next: llmops serve configs/gateway.yaml")
        return
    head = (
        by.value,
        "requests",
        "4xx",
        "5xx",
        "cached",
        "tokens in",
        "tokens out",
        "USD",
        "p50",
        "p95",
        "p99",
        "first",
    )
    rows = [_row(one) for one in lines]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        first, *rest = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        typer.echo("  ".join((first, *rest)))
    if copies := sum(one.copies for one in lines):
        typer.echo(f"and {copies:,} copies for shadows, whose cost is included")
    other = By.key if by is not By.key else By.version
    typer.echo(f"next: llmops serve ledger --by {other.value} --since {since}")


def _row(one: Usage) -> tuple[str, ...]:
    return (
        one.name or "-",
        f"{one.requests:,}",
        f"{one.refused:,}",
        f"{one.failed:,}",
        f"{one.from_cache:,}",
        f"{one.prompt_tokens:,}",
        f"{one.completion_tokens:,}",
        "-" if one.usd is None else f"{one.usd:.4f}",
        *(_seconds(value) for value in (one.p50, one.p95, one.p99, one.first_p50)),
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _start(text: str, now: float) -> float:
    if (ago := re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)) is not None:
        return now - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no time", fix="write --since 24h, 7d or 2026-11-01") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _without_name(line: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in line.items() if name != "name"}


def register(serve: typer.Typer) -> None:
    serve.command()(ledger)
