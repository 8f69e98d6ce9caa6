"""A report as its file holds it: every item with its answer and statistics, to be compared, judged and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmops.errors import InputError
from llmops.eval import metric as metrics_file
from llmops.eval.metric import Groups, Metric
from llmops.files import digest_of
from llmops.records import Report, Score

FORMAT = 2
"""Of the report's file; a change that an older reader would misread adds one."""
ALL = ""
"""The group of all items, beside those of the slices."""


BESIDE = ("digest", "measures", "seconds", "confidence")
"""Of a report's file: what its digest is not taken over."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One item as a model answered it; `scores` by metric, `seconds` until its last token, `confidence` as the mean
    probability of its tokens; None where not known.

    Scorers are given it before there are scores.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    references: tuple[str, ...]
    slices: Mapping[str, str]
    cluster: str
    answer: str
    finish: str | None = None
    tokens: int | None = None
    seconds: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    confidence: float | None = None

    @property
    def prompt(self) -> str:
        """The text of the user's turns."""
        return "\n\n".join(str(turn["content"]) for turn in self.messages if turn["role"] == "user")


@dataclass(frozen=True, eq=False)
class Measured:
    """One model on one suite, complete.

    Attributes:
        model: `reference`, `revision` and `digest`.
        suite: `name`, `digest` and `settings`.
        measures: numbers beside the scores by name; the unit is the name's last part.
        scores, slices: the values with their intervals, of all items and of each slice.
        judges: for each metric that was made by asking others, who was asked, with what calibration, and what they
            said.
    """

    digest: str
    model: Mapping[str, Any]
    suite: Mapping[str, Any]
    engine: Mapping[str, str]
    items: tuple[Answered, ...]
    metrics: tuple[Metric, ...]
    measures: Mapping[str, float]
    file: Path | None = None
    scores: tuple[Score, ...] = ()
    slices: Mapping[str, tuple[Score, ...]] = field(default_factory=dict)
    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How people know the model."""
        return str(self.model["reference"])

    @cached_property
    def groups(self) -> Groups:
        """Positions of all items, and of those in each slice by `breakdown=value`, in alphabetical order."""
        found: dict[str, list[int]] = {}
        for place, item in enumerate(self.items):
            for breakdown, value in item.slices.items():
                found.setdefault(f"{breakdown}={value}", []).append(place)
        return {ALL: list(range(len(self.items))), **dict(sorted(found.items()))}

    @cached_property
    def clusters(self) -> list[int]:
        """A number for each item; items with one number are not independent."""
        numbers: dict[str, int] = {}
        return [numbers.setdefault(item.cluster, len(numbers)) for item in self.items]

    def _repr_html_(self) -> str:
        """The page of the report in a frame of its own, for a notebook."""
        from llmops.eval.pages.document import framed
        from llmops.eval.pages.report_page import report_page

        return framed(report_page(self), title=f"{self.name} on {self.suite['name']}")

    def metric(self, name: str) -> Metric | None:
        return next((one for one in self.metrics if one.name == name), None)


def content_of(
    measured: Measured, *, scores: Sequence[Mapping[str, Any]], slices: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """What a report's digest is taken over: everything but times, places, and probabilities, whose last digits depend
    on what was answered beside.

    Args:
        scores, slices: the values with their intervals, for readers of the file.
    """
    return {
        "format": FORMAT,
        "suite": dict(measured.suite),
        "model": dict(measured.model),
        "engine": dict(measured.engine),
        "metrics": [metrics_file.to_json(metric) for metric in measured.metrics],
        "scores": list(scores),
        "slices": {name: list(of_slice) for name, of_slice in slices.items()},
        "items": [_item(place, item, measured.metrics) for place, item in enumerate(measured.items)],
        # Left out where there are none, so that reports without judges keep their digests.
        **({"judges": {name: dict(judge) for name, judge in measured.judges.items()}} if measured.judges else {}),
    }


def _item(place: int, item: Answered, metrics: Sequence[Metric]) -> dict[str, Any]:
    return {
        "id": item.id,
        "messages": [dict(turn) for turn in item.messages],
        "references": list(item.references),
        **({"choices": list(item.choices)} if item.choices else {}),
        "slices": dict(item.slices),
        "cluster": item.cluster,
        "answer": item.answer,
        "finish": item.finish,
        "tokens": item.tokens,
        "statistics": {metric.name: metric.statistics[place].tolist() for metric in metrics},
        "scores": {name: _number(value) for name, value in item.scores.items()},
    }


def read(file: Path) -> Measured:
    """The report in a file that `llmops eval` wrote.

    Raises:
        InputError: there is none, it is no report, of another format, or was changed after it was written.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the report {file} cannot be read: {error.strerror}", fix="give a file that `llmops eval` wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{file} is no report: it is no JSON", fix="give a file that `llmops eval` wrote") from error
    again = "evaluate the model again with `llmops eval`"
    if not isinstance(record, dict) or "format" not in record or "items" not in record:
        raise InputError(f"{file} is no report of llmops", fix="give a file that `llmops eval` wrote")
    if record["format"] != FORMAT:
        raise InputError(f"{file} has format {record['format']}, this version reads format {FORMAT}", fix=again)
    content = {key: value for key, value in record.items() if key not in BESIDE}
    if digest_of(content) != record.get("digest"):
        raise InputError(f"the report {file} was changed after it was written: its digest does not fit", fix=again)
    return from_record(record, file)


def from_record(record: Mapping[str, Any], file: Path | None = None) -> Measured:
    """The report of a record that `content_of` and the run made."""
    items = record["items"]
    metrics = tuple(
        metrics_file.from_json(
            one,
            [item["statistics"][one["metric"]] for item in items],
            [_value(item["scores"][one["metric"]]) for item in items],
        )
        for one in record["metrics"]
    )
    seconds, confidence = record.get("seconds", {}), record.get("confidence", {})
    return Measured(
        digest=record["digest"],
        model=record["model"],
        suite=record["suite"],
        engine=record["engine"],
        items=tuple(
            Answered(
                id=item["id"],
                messages=tuple(item["messages"]),
                references=tuple(item["references"]),
                slices=item["slices"],
                cluster=item["cluster"],
                answer=item["answer"],
                finish=item["finish"],
                tokens=item["tokens"],
                seconds=seconds.get(item["id"]),
                scores={name: _value(value) for name, value in item["scores"].items()},
                choices=tuple(item.get("choices", ())),
                confidence=confidence.get(item["id"]),
            )
            for item in items
        ),
        metrics=metrics,
        measures=record.get("measures", {}),
        file=file,
        scores=tuple(Score(**score) for score in record["scores"]),
        slices={name: tuple(Score(**score) for score in some) for name, some in record["slices"].items()},
        judges=record.get("judges", {}),
    )


def summary(report: Measured) -> Report:
    """What is known of the report without its items."""
    return Report(
        suite=str(report.suite["name"]),
        model=report.name,
        digest=report.digest,
        items=len(report.items),
        scores=report.scores,
        measures=report.measures,
        file=report.file,
        suite_digest=str(report.suite["digest"]),
        model_digest=str(report.model["digest"]),
        slices=report.slices,
        slice_items={group: len(places) for group, places in report.groups.items() if group != ALL},
    )


def _number(value: float) -> float | None:
    """JSON has no NaN: an item without a value of its own has null."""
    return None if value != value else float(value)


def _value(number: float | None) -> float:
    return float("nan") if number is None else float(number)
