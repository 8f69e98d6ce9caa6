"""Reports side by side: one column per model, the difference where there are two, as a table or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.markup import escape
from rich.table import Table

from llmops.errors import InputError
from llmops.eval.verdict import lines as verdict_lines
from llmops.records import Report, Score, Verdict

_SHOWN = {  # the measures a reader wants beside the scores, and what they are called there
    "truncated_share": "truncated",
    "empty_share": "empty",
    "refusal_share": "refused",
    "toxic_share": "toxic words",
    "tokens_per_s": "tokens/s",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table; `values` has one text per model, empty where it was not measured.

    `interval` is that of the one model where there is one, and empty for what is no score.
    """

    suite: str
    name: str
    values: tuple[str, ...]
    difference: str
    interval: str = ""


def table(reports: Sequence[Report]) -> Table:
    """Scores of the models of `reports` side by side, in the order they come in; suites below each other.

    Raises:
        InputError: two reports of one suite differ in its items, decoding or scorers.
    """
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("suite", "metric"):
        shown.add_column(heading)
    headings = _headings(reports)
    for heading in headings:
        shown.add_column(escape(heading), justify="right", overflow="fold")
    alone = len(_models(reports)) == 1
    if alone:
        shown.add_column("95% interval", justify="right")
    previous = ""
    for line in lines(reports):
        cells = [*line.values, line.difference][: len(headings)] + ([line.interval] if alone else [])
        shown.add_row(*map(escape, [line.suite if line.suite != previous else "", line.name, *cells]))
        previous = line.suite
    return shown


def verdict_heading(verdict: Verdict) -> str:
    """The result in one line."""
    against = f" against {verdict.against}" if verdict.against else ""
    return f"{verdict.result} by {verdict.gate}{against}"


def verdict_table(verdict: Verdict) -> Table:
    """Every rule of a verdict with its number and interval."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "rule", "value", f"{verdict.confidence:.0%} interval", ""):
        shown.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
    for row in verdict_lines(verdict):
        shown.add_row(*map(escape, row))
    return shown


def to_markdown(reports: Sequence[Report]) -> str:
    """The same table in Markdown, for a pull request or a model card."""
    headings = ["suite", "metric", *_headings(reports)]
    rows = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for line in lines(reports):
        rows.append([line.suite, line.name, *line.values, line.difference][: len(headings)])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def lines(reports: Sequence[Report]) -> list[Line]:
    """What the table says, row by row; the difference is the second model less the first."""
    models = _models(reports)
    found: list[Line] = []
    for suite in dict.fromkeys(report.suite for report in reports):
        of_suite = {_key(report): report for report in reports if report.suite == suite}
        _check_comparable(list(of_suite.values()))
        count = next(iter(of_suite.values())).items
        scores = {model: {one.metric: one.value for one in report.scores} for model, report in of_suite.items()}
        metrics = dict.fromkeys(name for values in scores.values() for name in values)
        intervals = {one.metric: one for one in of_suite[models[0]].scores} if len(models) == 1 else {}
        for metric in metrics:
            line = _line(suite, metric, [scores.get(model, {}).get(metric) for model in models])
            found.append(replace(line, interval=interval_of(intervals.get(metric))))
        for measure, name in _SHOWN.items():
            values = [of_suite[model].measures.get(measure) if model in of_suite else None for model in models]
            if all(not value for value in values):
                continue
            found.append(_line(suite, name, values, share=measure.endswith("_share")))
        found.append(Line(suite, "items", tuple(str(count) if model in of_suite else "" for model in models), ""))
    return found


def _line(suite: str, name: str, values: Sequence[float | None], *, share: bool = False) -> Line:
    given = [value for value in values if value is not None]
    shape = ".1%" if share else shape_of(given)
    difference = given[1] - given[0] if len(values) == len(given) == 2 else None
    return Line(
        suite,
        name,
        tuple("" if value is None else format(value, shape) for value in values),
        "" if difference is None else format(difference, f"+{shape}"),
    )


def shape_of(values: Sequence[float]) -> str:
    """The format of numbers that stand together: points of a hundred get two decimals, shares of one get four."""
    return ".2f" if any(abs(value) > 1.5 for value in values) else ".4f"


def measured_as(name: str, value: float) -> str:
    """A measure by its unit, the last part of its name."""
    if name.endswith("_share"):
        return f"{value:.1%}"
    return f"{value:,.0f}" if name.endswith("_bytes") or abs(value) >= 1000 else f"{value:.4g}"


def value_of(score: Score) -> str:
    return _line("", score.metric, [score.value]).values[0]


def interval_of(score: Score | None) -> str:
    """The interval as people read it; empty where it has an open end."""
    if score is None or score.low is None or score.high is None:
        return ""
    shape = shape_of([score.value])
    return f"{score.low:{shape}} to {score.high:{shape}}"


def _key(report: Report) -> tuple[str, str]:
    """A model's column: two states of one folder are two models."""
    return report.model, report.model_digest


def _models(reports: Sequence[Report]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(map(_key, reports)))


def _headings(reports: Sequence[Report]) -> list[str]:
    models = _models(reports)
    names = [name for name, _ in models]
    shown = [name if names.count(name) == 1 else f"{name} {digest[:8]}" for name, digest in models]
    return [*shown, "difference"] if len(models) == 2 else shown


def _check_comparable(reports: Sequence[Report]) -> None:
    first = reports[0]
    for other in reports[1:]:
        if other.suite_digest != first.suite_digest:
            raise InputError(
                f"the reports of {first.model} and {other.model} on {first.suite} measure different things: "
                "its items, decoding or scorers changed between them",
                fix=f"evaluate both models with the suite as it is now: llmops eval {first.model} …",
            )
        signatures = {one.metric: one.signature for one in first.scores}
        for score in other.scores:
            if signatures.get(score.metric, score.signature) != score.signature:
                raise InputError(
                    f"{score.metric} of {other.model} was computed as {score.signature}, "
                    f"of {first.model} as {signatures[score.metric]}",
                    fix="evaluate both models with the same version of the scorer",
                )
