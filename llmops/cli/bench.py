"""Commands that put load on a server: bench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import EnvironmentFault, InputError

if TYPE_CHECKING:
    from llmops.serve.arrivals import Shot, Work
    from llmops.serve.bench import Benched, Found, Plan
    from llmops.serve.bench_summary import Difference


def bench(
    url: Annotated[str, typer.Argument(help="An OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")],
    model: Annotated[str, typer.Option(help="The name of the model, or route, there.")],
    api_key_env: Annotated[str | None, typer.Option(help="Variable that holds the key.")] = None,
    against: Annotated[
        str | None, typer.Option(help="A second server, asked the same in turns with the first.")
    ] = None,
    against_model: Annotated[str | None, typer.Option(help="The model's name there; --model by default.")] = None,
    rate: Annotated[float, typer.Option(min=0.001, help="Requests a second on average, arriving by chance.")] = 5.0,
    trace: Annotated[
        Path | None, typer.Option(help="csv or jsonl that says when (`at`, s), and how long (`input`, `output`).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long requests are sent, in all rounds.")] = 30.0,
    warmup: Annotated[float, typer.Option(min=0.0, help="Seconds of load before, which count nowhere.")] = 5.0,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of each server; 4 with --against, else 1.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts: .txt with one a line, or a file with `prompt` or `messages`.")
    ] = None,
    input_words: Annotated[
        str, typer.Option(help="Words of a made-up prompt: 128, uniform:50:200, normal:100:20, lognormal:100:0.5.")
    ] = "128",
    shared_words: Annotated[int, typer.Option(min=0, help="Words with which all made-up prompts begin.")] = 0,
    output_tokens: Annotated[str, typer.Option(help="Tokens an answer may have, written as --input-words.")] = "64",
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Have vLLM write all of them.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the answers.")] = 0.0,
    slo: Annotated[
        str, typer.Option(help="What a good answer keeps to: ttft=500ms,tpot=50ms,e2e=10s.")
    ] = "ttft=500ms,tpot=50ms",
    find_max: Annotated[bool, typer.Option("--find-max", help="Search the largest rate, from --rate on.")] = False,
    share: Annotated[float, typer.Option(min=0.5, max=1.0, help="Of requests that must be good for it.")] = 0.99,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds for one whole answer.")] = 600.0,
    most_open: Annotated[int, typer.Option(min=1, help="Requests under way; more fail unsent.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals and prompts.")] = 17,
    out: Annotated[Path | None, typer.Option(help="Page to write; its figures go beside it as .json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Send requests to URL at a rate, whether or not it keeps up, and say how long they took.

    With --find-max the rate is raised until too few requests keep to --slo; URL alone is searched.
    """
    import asyncio

    from llmops.cli.progress import watching
    from llmops.client import address, key_in
    from llmops.files import write_json, write_text

    try:
        from llmops.serve.bench import Target, compared, largest_load
        from llmops.serve.bench_report import as_json as plain
        from llmops.serve.bench_report import page
        from llmops.serve.bench_summary import objective
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"a load test needs the package {error.name}", fix="run `pip install 'llmops[gateway,route]'`"
        ) from error

    if trace is not None and (find_max or against):
        raise InputError("a trace has a rate of its own", fix="leave --trace out, or --find-max and --against")
    if against_model is not None and against is None:
        raise InputError("--against-model is for --against, and there is none", fix="give both, or none")
    wanted = objective(slo)
    work = _work(model, prompts, input_words, output_tokens, shared_words, temperature, ignore_eos)
    key = key_in(api_key_env) if api_key_env else None
    targets = [Target(address(url), key)]
    if against is not None:
        targets.append(Target(address(against), key, against_model))
    plan, rate, seconds = _plan(work, trace, seed, rate, seconds)
    asked: dict[str, Any] = {
        "model": model,
        "rate": rate,
        "seconds": seconds,
        "arrivals": f"trace {trace}" if trace else "Poisson",
        "prompts": str(prompts) if prompts else f"made up: {input_words} words, {shared_words} shared",
        "output tokens": output_tokens + (", end ignored" if ignore_eos else ""),
        "temperature": temperature,
        "objective": slo,
        "seed": seed,
    }
    with watching(quiet=as_json) as listener:
        benched, differences = asyncio.run(
            compared(
                targets,
                plan,
                rate=rate,
                seconds=seconds,
                warmup_s=warmup,
                rounds=1 if trace else rounds or (4 if against else 1),
                seed=seed,
                wanted=wanted,
                listener=listener,
                timeout_s=timeout_s,
                most_open=most_open,
            )
        )
        found = None
        if find_max:
            found = asyncio.run(
                largest_load(
                    targets[0],
                    plan,
                    start=rate,
                    seconds=seconds,
                    share=share,
                    seed=seed + 1000,
                    wanted=wanted,
                    listener=listener,
                    timeout_s=timeout_s,
                    most_open=most_open,
                )
            )
    figures = plain(asked, benched, differences, found)
    if out is not None:
        write_text(out, page(asked, benched, differences, found))
        write_json(out.with_suffix(".json"), figures)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    _print(benched, differences, found)
    if out is not None:
        typer.echo(f"page: {out}")
    typer.echo(f"next: llmops bench {url} --model {model} --find-max --slo {slo}, to see how much it bears")


def _work(
    model: str,
    prompts: Path | None,
    words: str,
    output: str,
    shared: int,
    temperature: float,
    ignore_eos: bool,
) -> Work:
    from llmops.serve.arrivals import Work, lengths, prompts_in

    more = {"temperature": temperature, **({"ignore_eos": True} if ignore_eos else {})}
    return Work(model, prompts_in(prompts) if prompts else (), lengths(words), lengths(output), shared, more)


def _plan(work: Work, trace: Path | None, seed: int, rate: float, seconds: float) -> tuple[Plan, float, float]:
    """How shots are made, with the rate and the seconds they have."""
    from llmops.serve.arrivals import poisson, traced

    def chance(rate: float, seconds: float, seed: int) -> Sequence[Shot]:
        return poisson(work, rate, seconds, seed)

    if trace is None:
        return chance, rate, seconds
    shots = traced(work, trace, seed)
    lasts = max(shots[-1].at, 0.001)

    def as_traced(rate: float, seconds: float, seed: int) -> Sequence[Shot]:
        return [shot for shot in shots if shot.at <= seconds]

    return as_traced, len(shots) / lasts, lasts


def _print(benched: Sequence[Benched], differences: Sequence[Difference], found: Found | None) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    from llmops.serve.bench_report import figures, milliseconds
    from llmops.serve.bench_summary import KINDS

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    rates = Table("", *(one.url for one in benched))
    columns = [figures(one.summary) for one in benched]
    for name in columns[0]:
        rates.add_row(name, *(column[name] for column in columns))
    console.print(rates)
    times = Table("", "p50", "p90", "p95", "p99", "p99.9")
    for number, one in enumerate(benched, 1):
        for kind, name in {**KINDS, "gap": "time between two pieces", "lag": "the generator's lateness"}.items():
            points = one.summary.times[kind]
            if points:
                said = f"{number}: {name}" if len(benched) > 1 else name
                times.add_row(said, *(milliseconds(point.value) for point in points))
    console.print(times)
    for gap in differences:
        typer.echo(
            f"{KINDS[gap.kind]}, p{100 * gap.share:g}: the second is {1000 * gap.value:+.1f} ms slower "
            f"[{1000 * gap.low:+.1f}, {1000 * gap.high:+.1f}]"
        )
    for one in benched:
        if one.summary.bottleneck:
            typer.echo(f"the load generator may be what was measured at {one.url}: {one.summary.bottleneck}")
    if found is not None:
        typer.echo(f"largest rate: {found.rate:.2f} requests/s" + (" or more" if found.open_ended else ""))


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)
