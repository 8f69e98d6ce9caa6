"""The command that makes a model smaller, and judges it against what it was made from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.hardware import Machine
    from llmops.lifecycle.originals import Original
    from llmops.lifecycle.quantize import Options, Result

_HELP = "w4a16, w8a16, w8a8, fp8 or nf4; --dry-run says of each where it runs and what it takes."


def quantize(
    model: Annotated[str, typer.Argument(help="models:/name@alias, models:/name/3, a folder, builtin:tiny, a hub id.")],
    scheme: Annotated[str | None, typer.Option(help=_HELP)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every scheme this machine can run, side by side.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Round to the nearest; tunes nothing, needs no rows.")] = False,
    iters: Annotated[int | None, typer.Option(min=1, help="Tuning steps of each layer; 200 left out.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rows the rounding is tuned on, at most.")] = 128,
    seed: Annotated[int, typer.Option(help="Chooses the rows, and their order in the tuning.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Tune on this jsonl; left out: the validation rows of the model's own run.")
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Of an adapter: quantize its base alone, to serve the adapter on it.")
    ] = False,
    suite: Annotated[
        list[Path] | None, typer.Option(help="Judge by this file of eval/suites/; left out: those of its recipe.")
    ] = None,
    gate: Annotated[
        Path | None, typer.Option(help="Judge by this file of eval/gates/; left out: eval/gates/quantized.yaml.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say where it runs and what it takes; make nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The results as JSON.")] = False,
) -> None:
    """Quantize MODEL by --scheme, judge it against MODEL as both are served, and register it as NAME-SCHEME.

    Exit codes: 0 it passes the gate, 3 it fails, 4 there are too few items to tell; with --all, of the best.
    """
    from llmops.quantize.schemes import SCHEMES

    if every == (scheme is not None):
        raise InputError("say which scheme to make", fix=f"--scheme {' or '.join(SCHEMES)}; or --all")
    if scheme is not None:
        SCHEMES[scheme]  # a misspelt one is answered at once
    if fast and (iters is not None or data is not None):
        raise InputError("--fast tunes nothing, so it takes no --iters and no --data", fix="leave --fast or these out")

    from llmops.cli.progress import watching
    from llmops.hardware import machine
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    here = machine()
    with watching(quiet=as_json) as listener:
        from llmops.lifecycle.originals import look
        from llmops.lifecycle.quantize import ITERS, Options, checked, prepare, quantize_model, runnable

        options = Options(
            iters=0 if fast else iters or ITERS,
            samples=samples,
            seed=seed,
            beside=beside,
            data=data,
            suites=tuple(suite or ()),
            gate=gate,
        )
        original = look(model, workspace=workspace, listener=listener)
        named = [scheme] if scheme else list(SCHEMES)
        if dry_run:
            _print_expected(_expected(original, options, here, named), original, scheme, as_json=as_json)
            return
        if scheme is not None:
            checked(original, scheme, options, here)
        left_out = {name: why for name, why in runnable(original, options, here).items() if why} if every else {}
        wanted = [name for name in named if name not in left_out]
        if not wanted:
            reasons = "".join(f"\n  {name}: {why}" for name, why in left_out.items())
            raise InputError(f"no scheme makes {model} smaller here:{reasons}", fix="serve it as it is")
        for name, why in left_out.items():
            listener.say(f"{name}: left out: {why}")
        for line in _lines(_expected(original, options, here, wanted)):
            listener.say(line)
        prepared = prepare(original, wanted, options, workspace=workspace)
        results = [
            quantize_model(prepared, name, options, machine=here, workspace=workspace, listener=listener)
            for name in wanted
        ]
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in results], indent=2, ensure_ascii=False))
    else:
        _print(results, alone=not every)
    _end(results, as_json=as_json)


def register(app: typer.Typer) -> None:
    app.command()(quantize)


def _expected(original: Original, options: Options, here: Machine, schemes: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of each scheme before anything is loaded; one that does not fit, or not here, with its reason."""
    from llmops.lifecycle.quantize import predict
    from llmops.quantize.schemes import SCHEMES, where, why_not

    rows = []
    for name in schemes:
        one = SCHEMES[name]
        row: dict[str, Any] = {
            "scheme": name,
            "what": one.words,
            "weight_bits": one.weight_bits,
            "activation_bits": one.activation_bits,
            "runs_on": where(one),
            "served_by": one.served_by,
            "here": why_not(one, here) or "yes",
        }
        try:
            found = predict(original, one, options)
            row |= {"disk_bytes": found.disk, "original_bytes": found.original_disk, "memory_bytes": found.memory}
        except InputError as error:
            row["here"] = error.problem
        rows.append(row)
    return rows


def _lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield f"{row['scheme']}: {row['what']}"
        yield f"  runs on {row['runs_on']}; served by {row['served_by']}; here: {row['here']}"
        if "disk_bytes" in row:
            share = row["disk_bytes"] / row["original_bytes"]
            yield (
                f"  about {_size(row['disk_bytes'])} on disk and in memory where it is served, {share:.0%} of the "
                f"original; about {_size(row['memory_bytes'])} of memory to make it"
            )


def _print_expected(rows: list[dict[str, Any]], original: Original, scheme: str | None, *, as_json: bool) -> None:
    """What `--dry-run` says."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for line in _lines(rows):
        typer.echo(line)
    typer.echo(f"next: llmops quantize {original.source.reference} --scheme {scheme or 'w4a16'}")


def _print(results: list[Result], *, alone: bool) -> None:
    from rich.console import Console

    from llmops.eval.report import verdict_heading, verdict_table

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(_table(results))
    for one in results:
        if alone:
            typer.echo(verdict_heading(one.verdict))
            console.print(verdict_table(one.verdict))
        where = one.version.reference if one.version is not None else "not registered"
        typer.echo(f"{one.scheme}: {one.verdict.result} → {where}, {one.artifact}")


def _table(results: list[Result]) -> Any:
    """Quality × size × speed, a line for each suite."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("scheme", "gate", "suite", "score", "difference", "changed", "KL", "size", "tokens/s"):
        table.add_column(column)
    for one in results:
        for suite, kept in one.kept.items():
            before, after = kept.weights_bytes
            difference = f"{kept.difference.value:+.3f} ({_ends(kept.difference)})"
            table.add_row(
                one.scheme,
                {"PASS": "✓ PASS"}.get(one.verdict.result, one.verdict.result),
                suite,
                f"{kept.metric} {kept.before:.3f} → {kept.after:.3f}",
                difference,
                "–" if kept.changed is None else f"{kept.changed.value:.1%}",
                f"{kept.kl.value:.4f}",
                f"{_size(before)} → {_size(after)}",
                " → ".join("–" if speed is None else f"{speed:,.0f}" for speed in kept.tokens_per_s),
            )
    return table


def _ends(interval: Any) -> str:
    low, high = interval.low, interval.high
    return f"{'−∞' if low is None else f'{low:+.3f}'} to {'∞' if high is None else f'{high:+.3f}'}"


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _plain(one: Result) -> dict[str, Any]:
    from dataclasses import asdict

    from llmops.registry.verdicts import plain

    return {
        "scheme": one.scheme,
        "artifact": str(one.artifact),
        "digest": one.manifest.artifact_digest,
        "version": one.version.reference if one.version is not None else None,
        "cached": one.cached,
        "predicted": dict(one.manifest.predicted),
        "measured": dict(one.manifest.measured),
        "suites": {suite: asdict(kept) for suite, kept in one.kept.items()},
        "verdict": plain(one.verdict),
    }


def _end(results: list[Result], *, as_json: bool) -> None:
    """The next command, and the exit code of the best verdict; a result that is not registered is said first."""
    from llmops.eval.verdict import EXIT_CODES

    for one in results:
        if one.fault is not None:
            raise one.fault
    best = min(results, key=lambda one: EXIT_CODES[one.verdict.result])
    if not as_json and best.version is not None:
        named = best.version.reference.removeprefix("models:/")
        typer.echo(
            f"next: llmops models approve {named} --as SOMEBODY-ELSE"
            if best.verdict.result == "PASS"
            else f"next: llmops models show {named}, or another scheme, or more --iters than {best.manifest.steps}"
        )
    raise typer.Exit(EXIT_CODES[best.verdict.result])
