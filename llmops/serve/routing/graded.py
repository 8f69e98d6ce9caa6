"""Graded answers of a small and a large model to the same prompts: what a router is learned from and judged on."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmops.errors import InputError, nearest
from llmops.files import digest_of

Values = NDArray[np.float64]
FEWEST = 50
"""Prompts below which nothing is learned."""


@dataclass(frozen=True, eq=False)
class Graded:
    """Rows in the order of the data.

    Attributes:
        small, large: `(rows,)` how good each model's answer was, 0 to 1; 1 for right.
        clusters: `(rows,)` a number for each row; rows with one number are not independent.
        confidence: `(rows,)` mean probability of the tokens of the small model's answer, where it is known.
        left_out: rows of the source that are not here.
    """

    source: str
    small_name: str
    large_name: str
    prompts: tuple[str, ...]
    small: Values
    large: Values
    clusters: tuple[int, ...]
    confidence: Values | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def gaps(self) -> Values:
        """`(rows,)` what the large model would have added, −1 to 1."""
        return self.large - self.small

    @property
    def digest(self) -> str:
        """sha256 over prompts and grades, in order."""
        return digest_of(
            [list(row) for row in zip(self.prompts, self.small.tolist(), self.large.tolist(), strict=True)]
        )


def graded(
    source: str,
    rows: Iterable[tuple[str, str, float, float, float | None]],
    *,
    small: str,
    large: str,
    left_out: int = 0,
) -> Graded:
    """The rows as one record.

    Args:
        rows: prompt, cluster, both grades, and the small model's confidence (None in all rows where it is not known).

    Raises:
        InputError: too few rows, a grade outside 0 to 1, or the large model is not the better one.
    """
    found = list(rows)
    if len(found) < FEWEST:
        raise InputError(
            f"{source} has {len(found)} graded prompts, and fewer than {FEWEST} show nothing", fix="grade more prompts"
        )
    prompts, names, smalls, larges, sure = zip(*found, strict=True)
    numbers: dict[str, int] = {}
    made = Graded(
        source=source,
        small_name=small,
        large_name=large,
        prompts=tuple(prompts),
        small=np.asarray(smalls, dtype=np.float64),
        large=np.asarray(larges, dtype=np.float64),
        clusters=tuple(numbers.setdefault(name, len(numbers)) for name in names),
        confidence=None if any(one is None for one in sure) else np.asarray(sure, dtype=np.float64),
        left_out=left_out,
    )
    if made.large.mean() <= made.small.mean():
        raise InputError(
            f"{large} is right in {made.large.mean():.1%} and {small} in {made.small.mean():.1%} of {source}: asking "
            "the large model is not worth anything here",
            fix="serve the better one directly, or name the models the other way round",
        )
    return made


def read_csv(
    file: Path,
    *,
    prompt: str = "prompt",
    small: str | None = None,
    large: str | None = None,
    confidence: str | None = None,
    leave_out: Path | None = None,
) -> Graded:
    """Graded answers from a csv with a column of prompts and one of grades for each model.

    Grades are true or false, or numbers from 0 to 1.

    Args:
        small, large: columns; None takes the two that hold nothing but grades, where there are just two, the one with
            the lower mean as the small one.
        confidence: column of the small model's mean token probability.
        leave_out: a jsonl whose `eval_prompt` or `prompt` names prompts to leave out, such as contaminated ones.

    Raises:
        InputError: a file cannot be read, a column is missing or holds no grades.
    """
    rows = _rows(file)
    header, body = rows[0], rows[1:]
    place = {name: number for number, name in enumerate(header)}
    if small is None or large is None:
        small, large = _graded_columns(file, header, body, small, large)
    wanted = [prompt, small, large, *([confidence] if confidence else [])]
    for name in wanted:
        if name not in place:
            raise InputError(
                f"{file} has no column {name!r}{nearest(name, header)}",
                fix=f"name one of its columns: {', '.join(header)}",
            )
    out = _left_out(leave_out) if leave_out is not None else set()
    kept = []
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise InputError(f"{file} row {number} has {len(row)} cells, not {len(header)}", fix="mend the row")
        text = row[place[prompt]]
        if not text.strip() or text in out:
            continue
        grades = [_grade(row[place[name]]) for name in wanted[1:]]
        for name, grade in zip(wanted[1:], grades, strict=True):
            if grade is None:
                raise InputError(
                    f"{file} row {number}: {row[place[name]]!r} in {name!r} is no grade",
                    fix="grades are true, false, or numbers from 0 to 1",
                )
        known = [grade for grade in grades if grade is not None]
        kept.append((text, text, known[0], known[1], known[2] if confidence else None))
    return graded(file.name, kept, small=small, large=large, left_out=len(body) - len(kept))


def _rows(file: Path) -> list[list[str]]:
    csv.field_size_limit(1 << 24)
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", fix="give a csv of graded answers") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no csv: {error}", fix="save it as csv in UTF-8") from error
    if not rows:
        raise InputError(f"{file} is empty", fix="give a csv of graded answers")
    return rows


def _graded_columns(
    file: Path, header: Sequence[str], body: Sequence[Sequence[str]], small: str | None, large: str | None
) -> tuple[str, str]:
    means = {}
    for number, name in enumerate(header):
        grades = [_grade(row[number]) for row in body if len(row) == len(header)]
        known = [grade for grade in grades if grade is not None]
        if known and len(known) == len(grades) and name not in (small, large):
            means[name] = sum(known) / len(known)
    open_ = [one for one in (small, large) if one is None]
    if len(means) != len(open_):
        found = ", ".join(means) or "none"
        raise InputError(
            f"{file}: which columns are grades cannot be told (found: {found})",
            fix="name them with --small and --large",
        )
    rising = iter(sorted(means, key=lambda name: means[name]))
    return small if small is not None else next(rising), large if large is not None else next(rising)


def _grade(cell: str) -> float | None:
    word = cell.strip().lower()
    if word in ("true", "false"):
        return float(word == "true")
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1 else None


def _left_out(file: Path) -> set[str]:
    found = set()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}", fix="give a jsonl of prompts to leave out") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.add(str(row["eval_prompt"] if "eval_prompt" in row else row["prompt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} line {number} names no prompt", fix='write {"prompt": "…"} or {"eval_prompt": "…"}'
            ) from error
    return found
