"""`llmops route`: learn which requests need the large model, show what that is worth, explain one decision."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.serve.routing.graded import Graded
    from llmops.serve.routing.judged import Judged
    from llmops.serve.routing.router import Aim, Confidence, Router

app = typer.Typer(
    help="Routing by size: a small model for routine requests, a large one for hard.", no_args_is_help=True
)

Answers = Annotated[
    list[Path], typer.Argument(help="Two reports of `llmops eval`, one of each model on one suite; or a csv of grades.")
]
Metric = Annotated[str | None, typer.Option(help="Metric of the reports, with values from 0 to 1.")]
Prompt = Annotated[str, typer.Option(help="Column of prompts in a csv.")]
Small = Annotated[str | None, typer.Option(help="Column of the small model's grades in a csv: true, false, or 0 to 1.")]
Large = Annotated[str | None, typer.Option(help="Column of the large model's grades.")]
SureOfIt = Annotated[
    str | None, typer.Option("--confidence", help="Column of the small model's mean token probability, for cascades.")
]
LeaveOut = Annotated[
    Path | None, typer.Option(help="A jsonl of prompts to leave out, such as contaminated ones: prompt or eval_prompt.")
]
Quality = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Floor of quality, as a share of the large model's; 0.95 where nothing is said."),
]
Cost = Annotated[
    float | None, typer.Option(min=0, max=1, help="Instead: ceiling of cost, as a share of asking only the large one.")
]
Shown = Annotated[
    float,
    typer.Option("--shown", min=0.5, max=0.999, help="Confidence with which the floor must be shown; 0.5 asks none."),
]
SmallCost = Annotated[
    float, typer.Option(min=0, max=1, help="Cost of an answer of the small model, as a share of the large one's.")
]
Folds = Annotated[int, typer.Option(min=2, max=20, help="Parts of the data, each held out once.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the folds.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def calibrate(
    data: Answers,
    out: Annotated[Path, typer.Option(help="Where the router goes.")] = Path("configs/router.json"),
    quality: Quality = None,
    cost: Cost = None,
    shown: Shown = 0.95,
    small_cost: SmallCost = 0.0,
    metric: Metric = None,
    prompt: Prompt = "prompt",
    small: Small = None,
    large: Large = None,
    confidence: SureOfIt = None,
    leave_out: LeaveOut = None,
    folds: Folds = 5,
    seed: Seed = 17,
    as_json: Json = False,
) -> None:
    """Learn a router from DATA and pick its threshold, for a floor of quality or a ceiling of cost."""
    aim = _aim(quality, cost, shown, small_cost)
    from llmops.lifecycle.graded_answers import graded_answers
    from llmops.serve.routing.calibrate import calibrate as run
    from llmops.serve.routing.router import write_router

    graded = graded_answers(
        data, metric=metric, prompt=prompt, small=small, large=large, confidence=confidence, leave_out=leave_out
    )
    done = run(graded, aim, folds=folds, seed=seed, done=_told(as_json))
    write_router(out, done.router)
    if as_json:
        typer.echo(json.dumps({"router": str(out), **_plain(done.router, done.judged)}, indent=2, ensure_ascii=False))
        return
    _heading(graded)
    typer.echo(
        f"reads {done.router.learning.chosen}, the best of {len(done.router.learning.candidates)} on held-out folds"
    )
    _lines(done.judged, aim)
    for sentence in sentences(done.judged):
        typer.echo(sentence)
    if done.router.confidence is not None:
        _cascade(done.router.confidence)
    else:
        typer.echo(
            "as a cascade: not known how sure the small model was; evaluate it with --engine vllm --no-cache, or give "
            "a csv with --confidence"
        )
    typer.echo(f"router: {out}, threshold {done.router.threshold:.3f}")
    same = _again(data, metric=metric, prompt=prompt, small=small, large=large, leave_out=leave_out)
    typer.echo(f"next: llmops route report {same} --router {out}")


@app.command()
def report(
    data: Answers,
    router: Annotated[
        Path | None, typer.Option(help="Judge this router; without, one is learned as `calibrate` would.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the page there; in the workspace's reports by default.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the curves there too, as .png or .svg.")] = None,
    quality: Quality = None,
    cost: Cost = None,
    shown: Shown = 0.95,
    small_cost: SmallCost = 0.0,
    metric: Metric = None,
    prompt: Prompt = "prompt",
    small: Small = None,
    large: Large = None,
    leave_out: LeaveOut = None,
    folds: Folds = 5,
    seed: Seed = 17,
    as_json: Json = False,
) -> None:
    """Show what routing is worth on DATA: quality against cost, beside chance, length alone and an oracle."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InputError(f"{plot} is neither .png nor .svg", fix="name a file with one of these ends")
    from llmops.files import write_text
    from llmops.lifecycle.graded_answers import graded_answers
    from llmops.serve.routing.page import page, write_picture
    from llmops.serve.routing.router import read_router
    from llmops.serve.routing.worth import worth_of, worth_of_router
    from llmops.workspace import Workspace

    if router is not None and (quality is not None or cost is not None):
        raise InputError(
            "a router has a threshold already, and its threshold was picked for an aim of its own",
            fix="leave --quality and --cost out, or leave --router out",
        )
    known = None if router is None else read_router(router)
    aim = known.aim if known is not None else _aim(quality, cost, shown, small_cost)
    graded = graded_answers(data, metric=metric, prompt=prompt, small=small, large=large, leave_out=leave_out)
    if known is None:
        found = worth_of(graded, aim, folds=folds, seed=seed, done=_told(as_json))
    else:
        found = worth_of_router(known, graded, done=_told(as_json))
    said = [*found.notes, *sentences(found.judged)]
    file = html or Workspace.current().folder("reports") / f"route-{graded.digest[:12]}.html"
    write_text(file, page(graded, found.judged, aim, sentences=said, repeat=f"llmops {shlex.join(sys.argv[1:])}"))
    if plot is not None:
        write_picture(plot, graded, found.judged)
    if as_json:
        record = {"page": str(file), "notes": list(found.notes), **_plain(known, found.judged)}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    _heading(graded)
    _lines(found.judged, aim)
    for sentence in said:
        typer.echo(sentence)
    typer.echo(f"page: {file}")
    if known is None:
        same = _again(data, metric=metric, prompt=prompt, small=small, large=large, leave_out=leave_out)
        typer.echo(f"next: llmops route calibrate {same}")
    else:
        typer.echo('next: llmops route explain "How many eggs are left?"' + f" --router {router}")


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="What a user would write; - reads standard input.")] = "",
    body: Annotated[Path | None, typer.Option(help="Instead: a JSON file with the whole body of a request.")] = None,
    router: Annotated[Path | None, typer.Option(help="Decide by this router; without, by length and marks.")] = None,
    small_tokens: Annotated[
        int, typer.Option(min=1, help="Without a router: longest prompt for the small model.")
    ] = 512,
    small_context: Annotated[int | None, typer.Option(min=1, help="Tokens that fit into the small model.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is seen of one request, and which model would get it, and why."""
    from dataclasses import asdict

    from llmops.serve.routing.choose import Rules, choose
    from llmops.serve.routing.features import features_of
    from llmops.serve.routing.router import read_router

    seen = features_of(_request(prompt, body))
    rules = Rules(small_tokens, None if router is None else read_router(router), small_context)
    decision = choose(seen, rules)
    chances = None if rules.router is None else rules.router.model.chances(seen)
    shown = {key: value for key, value in asdict(seen).items() if key != "text"}
    if as_json:
        record = {**asdict(decision), "features": shown, "chances": None if chances is None else chances._asdict()}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for key, value in shown.items():
        typer.echo(f"{key.replace('_', ' '):>15}  {value}")
    if chances is not None:
        typer.echo(f"{'chances':>15}  small {chances.small:.3f}, large {chances.large:.3f}, gap {chances.gap:.3f}")
    typer.echo(f"{decision.size}: {decision.reason}")


def sentences(found: Judged) -> list[str]:
    """What is found, in words: whether learning is shown to beat length, and chance."""
    beats, learned, length = found.beats_length, found.line("learned").apgr, found.line("length").apgr
    numbers = f"APGR {beats.value:+.3f} [{beats.low:+.3f}, {beats.high:+.3f}], paired bootstrap"
    if beats.low > 0:
        said = [f"the learned router is better than length alone: {numbers}"]
    else:
        said = [f"the learned router is NOT shown to beat length alone: {numbers}"]
    for name, one in (("the learned router", learned), ("length alone", length)):
        if one.low <= 0.5:
            said.append(f"{name} is not shown to beat chance: APGR {one.value:.3f} from {one.low:.3f}, chance is 0.5")
    return said


def _aim(quality: float | None, cost: float | None, shown: float, small_cost: float) -> Aim:
    from llmops.serve.routing.router import Aim

    if quality is not None and cost is not None:
        raise InputError("a floor of quality and a ceiling of cost are given", fix="give --quality or --cost")
    if cost is not None:
        return Aim(kind="cost", value=cost, confidence=0.5, small_cost=small_cost)
    return Aim(kind="quality", value=0.95 if quality is None else quality, confidence=shown, small_cost=small_cost)


def _again(data: list[Path], **options: str | Path | None) -> str:
    """The same data in the next command."""
    given = {key: value for key, value in options.items() if value is not None and (key, value) != ("prompt", "prompt")}
    words = [*map(str, data), *(word for key, value in given.items() for word in (_option(key), str(value)))]
    return shlex.join(words)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _request(prompt: str, body: Path | None) -> dict[str, Any]:
    if body is None:
        text = sys.stdin.read() if prompt == "-" else prompt
        return {"messages": [{"role": "user", "content": text}]}
    try:
        read = json.loads(body.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{body} cannot be read: {error.strerror}", fix="give a JSON file") from error
    except ValueError as error:
        raise InputError(f"{body} is no JSON: {error}", fix="give the body of a request") from error
    if not isinstance(read, dict):
        raise InputError(f"{body} holds no body of a request", fix='write {"messages": […]}')
    return read


def _told(quiet: bool) -> Any:
    def done(step: int, of: int) -> None:
        if not quiet:
            typer.echo(f"fold {step} of {of} held out", err=True)

    return done


def _heading(graded: Graded) -> None:
    left = f", {graded.left_out} left out" if graded.left_out else ""
    typer.echo(f"{graded.source}: {len(graded):,} graded prompts{left}")
    typer.echo(
        f"small {graded.small_name}: {graded.small.mean():.1%}; large {graded.large_name}: {graded.large.mean():.1%}"
    )


def _lines(found: Judged, aim: Aim) -> None:
    from rich.console import Console
    from rich.table import Table

    from llmops.serve.routing.judged import LEVELS
    from llmops.serve.routing.page import expected_rows, said

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    curves = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "APGR", *(f"CPT {level:.0%}" for level in LEVELS)):
        curves.add_column(heading, justify="left" if not heading else "right")
    for line in found.lines:
        curves.add_row(line.name, said(line.apgr), *(said(line.calls_for[level], percent=True) for level in LEVELS))
    console.print(curves)
    gives = Table(box=None, pad_edge=False, show_header=False)
    for row in expected_rows(found, aim):
        gives.add_row(*row)
    gives.add_row("calibration error", ", ".join(f"{name} {value:.3f}" for name, value in found.calibration.items()))
    console.print(gives)


def _cascade(found: Confidence) -> None:
    from llmops.serve.routing.page import said

    gives = found.expected
    typer.echo(
        f"as a cascade: answers stand from a calibrated confidence of {found.at_least:.3f}; quality "
        f"{said(gives.quality, percent=True)}, calls to the large model {said(gives.large_share, percent=True)}, "
        f"saving {said(gives.saving, percent=True)} with the small model's calls paid for"
    )


def _plain(router: Router | None, found: Judged) -> dict[str, Any]:
    record: dict[str, Any] = {
        "lines": {
            line.name: {
                "apgr": line.apgr.model_dump(),
                **{f"cpt_{level:.0%}": line.calls_for[level].model_dump() for level in line.calls_for},
            }
            for line in found.lines
        },
        "beats_length": found.beats_length.model_dump(),
        "shown_to_beat_length": found.beats_length.low > 0,
        "expected": found.expected.model_dump(),
        "calibration_error": found.calibration,
    }
    if router is not None:
        record |= {
            "threshold": router.threshold,
            "aim": router.aim.model_dump(),
            "data": router.data.model_dump(),
            "learning": router.learning.model_dump(),
            "cascade": None if router.confidence is None else router.confidence.expected.model_dump(),
        }
    return record


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="route")
