"""Graded answers from wherever they are: two evaluation reports of one suite, or a csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmops.errors import InputError, nearest
from llmops.eval.measured import Measured, read
from llmops.serve.routing.graded import Graded, graded, read_csv


def graded_answers(
    files: Sequence[Path],
    *,
    metric: str | None = None,
    prompt: str = "prompt",
    small: str | None = None,
    large: str | None = None,
    confidence: str | None = None,
    leave_out: Path | None = None,
) -> Graded:
    """Read what `files` name.

    Args:
        files: two reports of `llmops eval` (the model with the lower score is the small one), or one csv.
        metric: of the reports, whose values lie from 0 to 1; None takes their first such one.
        prompt, small, large, confidence, leave_out: columns and rows of a csv, as `read_csv` has them.

    Raises:
        InputError: they cannot be read or do not belong together.
    """
    if all(file.suffix == ".json" for file in files) and len(files) == 2:
        return of_reports(read(files[0]), read(files[1]), metric=metric)
    if len(files) != 1 or files[0].suffix == ".json":
        raise InputError(
            f"{len(files)} file(s) are given: {', '.join(map(str, files))}",
            fix="give two reports of `llmops eval`, one of each model on the same suite, or one csv",
        )
    return read_csv(files[0], prompt=prompt, small=small, large=large, confidence=confidence, leave_out=leave_out)


def of_reports(one: Measured, two: Measured, *, metric: str | None = None) -> Graded:
    """The items that both reports have, by id, with the small model's confidence where its report has it for all.

    Raises:
        InputError: they are of two suites, have no such metric, or one's values are no grades from 0 to 1.
    """
    if one.suite["digest"] != two.suite["digest"]:
        raise InputError(
            f"{one.name} was measured on {one.suite['name']} and {two.name} on "
            f"{two.suite['name']}, and their items or settings differ",
            fix="evaluate both models on one suite",
        )
    name = metric or _first_grade(one, two)
    for report in (one, two):
        if report.metric(name) is None:
            known = [found.name for found in report.metrics]
            raise InputError(
                f"{report.name} has no metric {name!r}{nearest(name, known)}",
                fix=f"name one of its metrics with --metric: {', '.join(known)}",
            )
    if _mean(one, name) > _mean(two, name):
        one, two = two, one
    other = {item.id: item for item in two.items}
    rows = []
    for item in one.items:
        if item.id not in other:
            continue
        grades = (item.scores[name], other[item.id].scores[name])
        if not all(0 <= grade <= 1 for grade in grades):
            raise InputError(
                f"{name} of item {item.id} is {grades[0]:g} and {grades[1]:g}: no grades from 0 to 1",
                fix="name a metric of shares with --metric, such as exact_match",
            )
        if item.prompt.strip():
            rows.append((item.prompt, item.cluster, *grades, item.confidence))
    return graded(
        f"{one.suite['name']} ({name})", rows, small=one.name, large=two.name, left_out=len(one.items) - len(rows)
    )


def _first_grade(one: Measured, two: Measured) -> str:
    for metric in one.metrics:
        other = two.metric(metric.name)
        if other is None:
            continue
        values = np.concatenate([metric.per_item, other.per_item])
        if bool(((values >= 0) & (values <= 1)).all()):
            return metric.name
    raise InputError(
        f"no metric of {one.suite['name']} grades each answer from 0 to 1",
        fix="evaluate both models with a scorer such as exact_match or number",
    )


def _mean(report: Measured, name: str) -> float:
    return float(np.mean([item.scores[name] for item in report.items]))
