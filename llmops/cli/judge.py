"""Commands on judges: calibrate one against people, correct its mean by theirs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.eval.judge.calibration import Calibration
    from llmops.eval.judge.ratings import Columns
    from llmops.eval.scorers.judge import JudgeScorer
    from llmops.prediction_powered import PredictionPowered

app = typer.Typer(help="Judges: language models that rate answers.", no_args_is_help=True)

Table = Annotated[str, typer.Argument(help="Human ratings: a csv, jsonl or parquet file, or any source of rows.")]
Metric = Annotated[str, typer.Option(help="The judge's metric, where a suite has several judges.")]
Prompt = Annotated[str, typer.Option(help="What was asked; {column} stands for a column's text.")]
AnswerText = Annotated[str, typer.Option("--answer", help="The rated answer, where the rubric rates one.")]
FirstText = Annotated[str, typer.Option("--first", help="The first of two answers, where it compares.")]
SecondText = Annotated[str, typer.Option("--second", help="The second of them.")]
Rating = Annotated[list[str] | None, typer.Option(help="Column with a rating; several are several raters.")]
Means = Annotated[
    list[str] | None, typer.Option(help="What a rating stands for on the rubric's scale, such as 0=TIE; repeat.")
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def calibrate(
    suite: Annotated[Path, typer.Argument(help="A file of eval/suites/ with a judge among its scorers.")],
    ratings: Table,
    metric: Metric = "",
    prompt: Prompt = "{prompt}",
    answer: AnswerText = "{answer}",
    first: FirstText = "{first}",
    second: SecondText = "{second}",
    reference: Annotated[str, typer.Option(help="A good answer, where the judge's prompt shows one.")] = "",
    rating: Rating = None,
    means: Means = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the calibration goes; the workspace's calibrations by default.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Ask everything anew, and keep nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Ask the judge of SUITE about what people rated, and say how far it agrees with them."""
    from llmops.cli.progress import watching
    from llmops.data.section import Origin
    from llmops.eval.judge.calibration import calibrate as run
    from llmops.eval.judge.ratings import ratings_in
    from llmops.files import write_json
    from llmops.workspace import Workspace

    scorer = judge_in(suite, metric)
    columns = _columns(prompt, answer, first, second, rating, means, reference)
    rated = ratings_in(Origin(source=ratings), scorer.question().rubric, columns)
    workspace = Workspace.current()
    with watching(quiet=as_json) as listener:
        if rated.left_out:
            listener.say(f"{len(rated.left_out)} rows are left out, such as {rated.left_out[0]}")
        judge = scorer.judge(None if no_cache else workspace.cache / "judged")
        found = run(judge, rated, unparsed_at_most=scorer.unparsed_at_most, listener=listener)
    file = out or workspace.folder("calibrations") / f"{found.judge['model']}-{found.digest[:12]}.json".replace(
        "/", "-"
    )
    write_json(file, found.plain())
    if as_json:
        typer.echo(json.dumps({**found.plain(), "file": str(file)}, indent=2, ensure_ascii=False))
        return
    enough = _print(found, scorer.minimum_agreement)
    typer.echo(f"calibration: {file}")
    typer.echo(
        f"next: write `calibration: {file}` into the judge of {suite}, so that a gate may rest on it"
        if enough
        else f"next: rate more answers, or change the judge's prompt {scorer.prompt}, and calibrate again"
    )


@app.command()
def correct(
    report: Annotated[Path, typer.Argument(help="A report's file that `llmops eval` wrote, with a judge's metric.")],
    ratings: Table,
    metric: Metric = "",
    prompt: Prompt = "{prompt}",
    answer: AnswerText = "{answer}",
    first: FirstText = "{first}",
    second: SecondText = "{second}",
    rating: Rating = None,
    means: Means = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    as_json: Json = False,
) -> None:
    """Say what people would give all answers of REPORT, of which they rated some, chosen at random."""
    from llmops.data.section import Origin
    from llmops.eval.judge.correction import correct as run
    from llmops.eval.judge.correction import rubric_of
    from llmops.eval.judge.ratings import ratings_in
    from llmops.eval.measured import read

    measured = read(report)
    name = metric or _the_one(list(measured.judges), f"the report {report}")
    rubric = rubric_of(measured, name)
    rated = ratings_in(Origin(source=ratings), rubric, _columns(prompt, answer, first, second, rating, means))
    made = measured.metric(name)
    assert made is not None
    found = run(measured.items, made.per_item.tolist(), rubric, rated, where=f"in {report}")
    if as_json:
        rows = {"people": found.alone, "corrected": found.estimate}
        plain: dict[str, Any] = {key: _plain(one, confidence) for key, one in rows.items()}
        counts = {"not_of_this_report": found.strange, "without_verdict": found.without}
        typer.echo(json.dumps({"metric": name, "judge": found.estimate.judge, **plain, **counts}, indent=2))
        return
    one = found.estimate
    typer.echo(f"{name} of {measured.name} on {measured.suite['name']}, {len(measured.items):,} answers")
    typer.echo(f"judge      {one.judge:.4f}  (biased as far as it differs from people)")
    typer.echo(f"people     {_interval(found.alone, confidence)}  {one.labelled} answers")
    typer.echo(f"corrected  {_interval(one, confidence)}  as sure as {one.worth:.0f} answers rated by people alone")
    typer.echo(f"of the judge's differences {one.power:.0%} is used (lambda, tuned by how well it follows people)")
    if found.strange:
        typer.echo(f"{found.strange} rated things are no answers of this report, and say nothing of it")
    if found.without:
        typer.echo(f"{found.without} answers have no verdict of the judge, and are left out")
    typer.echo(f"next: llmops compare ANOTHER-REPORT {report}, to see by how much they differ")


def judge_in(suite: Path, metric: str = "") -> JudgeScorer:
    """The judge of a suite whose metric is called so, or its only one.

    Raises:
        InputError: there is none, or several to choose from.
    """
    from llmops.config import load
    from llmops.eval.scorers.judge import JudgeScorer
    from llmops.eval.suite import Suite

    chosen = [one.chosen for one in load(suite, Suite, what="suite").scorers]
    judges = {one.name: one for one in chosen if isinstance(one, JudgeScorer)}
    name = metric or _the_one(list(judges), f"the suite {suite}")
    if name not in judges:
        raise InputError(
            f"the suite {suite} has no judge called {name!r}", fix=f"use one of: {', '.join(judges) or 'it has none'}"
        )
    return judges[name]


def _the_one(names: list[str], where: str) -> str:
    if not names:
        raise InputError(f"{where} has no judge", fix="add one to the suite's scorers: `- judge: {rubric: …}`")
    if len(names) > 1:
        raise InputError(f"{where} has {len(names)} judges", fix=f"name one with --metric: {', '.join(names)}")
    return names[0]


def _columns(
    prompt: str,
    answer: str,
    first: str,
    second: str,
    rating: list[str] | None,
    means: list[str] | None,
    reference: str = "",
) -> Columns:
    from llmops.eval.judge.ratings import Columns

    pairs = [one.partition("=") for one in means or []]
    for given, equals, wanted in pairs:
        if not equals or not wanted:
            raise InputError(f"--means {given} says nothing", fix="write it as --means 0=TIE")
    return Columns(
        prompt=prompt,
        answer=answer,
        first=first,
        second=second,
        reference=reference,
        ratings=tuple(rating or ("rating",)),
        means={given: wanted for given, _, wanted in pairs},
    )


_SHARES = {
    "unparsed_share": "no verdict",
    "asked_again_share": "asked again",
    "inconsistent_share": "order changed",  # what it said of a pair
    "first_share": "first shown",  # wins so many of the single choices; half where the place does not matter
}


def _print(found: Calibration, wanted: float) -> bool:
    """Show it, and say whether a gate may rest on it."""
    ratings = found.ratings
    typer.echo(
        f"judge {found.judge['model']} by {found.judge['rubric']['name']}@{found.judge['rubric']['version']}: "
        f"{ratings['ratings']:,} ratings of {ratings['things']:,} things on {ratings['prompts']:,} prompts"
    )
    weighted = " (quadratic weights)" if found.weights == "quadratic" else ""
    typer.echo(f"agreement      {_range(found.share)}")
    typer.echo(f"kappa          {_range(found.kappa)}{weighted}")
    if found.people is not None:
        typer.echo(f"  of people    {_range(found.people)}  with each other")
    typer.echo(f"length bias    {_range(found.length)}")
    for name, (part, whole) in found.counts.items():
        if whole:
            typer.echo(f"{_SHARES[name]:<13}  {part / whole:.1%} of {whole:,}")
    low = found.kappa["low"]
    enough = low is not None and low >= wanted
    typer.echo(
        f"a gate may rest on it: the low end of kappa reaches {wanted:g}"
        if enough
        else f"no gate may rest on it: the low end of kappa does not reach {wanted:g}"
    )
    return enough


def _range(numbers: Any) -> str:
    value, low, high = ("?" if numbers[name] is None else f"{numbers[name]:.3f}" for name in ("value", "low", "high"))
    return f"{value}  ({low} to {high})"


def _interval(one: PredictionPowered, confidence: float) -> str:
    low, high = one.interval(confidence)
    return f"{one.value:.4f}  ({low:.4f} to {high:.4f})"


def _plain(one: PredictionPowered, confidence: float) -> dict[str, Any]:
    low, high = (bound if math.isfinite(bound) else None for bound in one.interval(confidence))
    worth = one.worth if math.isfinite(one.worth) else None
    return {
        "value": one.value,
        "low": low,
        "high": high,
        "se": one.se,
        "power": one.power,
        "rated": one.labelled,
        "not_rated": one.unlabelled,
        "worth": worth,
    }


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="judge")
