"""Human ratings out of a table: who said what of which text, or of which of two, on a rubric's scale."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.data.section import Origin
from llmops.data.templates import UnusableCell, fill
from llmops.errors import InputError, nearest
from llmops.files import digest_of
from llmops.rubric import Attributes, Choice, Likert, Pairwise, Rubric, choice_of

Given = Choice | int | Mapping[str, str | int]
_YES_NO = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Where things stand in a row; `{column}` stands for a column's text.

    Attributes:
        ratings: columns with a rating each; several are several raters of the same row.
        means: what a rating that is written otherwise means on the scale, such as `0` = `TIE`.
    """

    prompt: str = "{prompt}"
    answer: str = "{answer}"
    first: str = "{first}"
    second: str = "{second}"
    reference: str = ""
    ratings: tuple[str, ...] = ("rating",)
    means: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rated:
    """One thing that people rated: a text, or two of them, with every rating it got."""

    prompt: str
    texts: tuple[str, ...]
    ratings: tuple[Given, ...]
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings by what they are of, in the order of their first rows.

    Attributes:
        left_out: rows with a text that is none, or without a rating, as `source:line: why`.
    """

    rated: tuple[Rated, ...]
    left_out: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 over all texts and ratings, whatever their order."""
        return digest_of(sorted([one.prompt, *one.texts, *map(json.dumps, one.ratings)] for one in self.rated))

    @property
    def clusters(self) -> list[int]:
        """A number for each thing; things of one prompt share it."""
        numbers: dict[str, int] = {}
        return [numbers.setdefault(one.prompt, len(numbers)) for one in self.rated]


def ratings_in(origin: Origin, rubric: Rubric, columns: Columns) -> Ratings:
    """The ratings of a source.

    Rows of one prompt and the same texts are one thing with several ratings; a pair that comes the other way round is
    turned.

    Raises:
        InputError: the source cannot be read, lacks a column, or holds a rating that is not on the scale.
    """
    from llmops.data.sources import read

    return ratings_of(read(origin), rubric, columns, name=origin.source)


def ratings_of(
    records: Iterable[tuple[int, Mapping[str, Any]]], rubric: Rubric, columns: Columns, *, name: str
) -> Ratings:
    """As `ratings_in`, of rows with their line numbers."""
    found: dict[tuple[str, ...], list[Given]] = {}
    references: dict[tuple[str, ...], str] = {}
    left_out: list[str] = []
    pairwise = isinstance(rubric.scale, Pairwise)
    for line, row in records:
        where = f"{name}:{line}"
        try:
            prompt = fill(columns.prompt, row)
            reference = fill(columns.reference, row)
            texts = tuple(fill(one, row) for one in (_pair(columns) if pairwise else (columns.answer,)))
        except UnusableCell as problem:
            _check_there(row, str(problem), where)
            left_out.append(f"{where}: {problem}")
            continue
        said = [_rating(row, column, rubric, columns, where) for column in columns.ratings]
        given = [one for one in said if one is not None]
        if not given:
            left_out.append(f"{where}: no rating")
            continue
        turned = (prompt, *reversed(texts))
        if pairwise and texts[0] != texts[1] and turned in found:
            found[turned] += [_turned(one) for one in given]
        else:
            found.setdefault((prompt, *texts), []).extend(given)
            references.setdefault((prompt, *texts), reference)
    if not found:
        raise InputError(f"{name} holds no ratings", fix="give rows with a rating, and say where with --rating COLUMN")
    rated = tuple(Rated(key[0], key[1:], tuple(given), references[key]) for key, given in found.items())
    return Ratings(rated, tuple(left_out))


def _pair(columns: Columns) -> tuple[str, str]:
    return columns.first, columns.second


def _check_there(row: Mapping[str, Any], problem: str, where: str) -> None:
    if problem.endswith("is missing"):
        column = problem.split("`")[1]
        raise InputError(
            f"{where}: there is no column `{column}`{nearest(column, row)}",
            fix=f"say where things stand with --prompt, --answer, --first, --second; its columns: {', '.join(row)}",
        )


def _rating(row: Mapping[str, Any], column: str, rubric: Rubric, columns: Columns, where: str) -> Given | None:
    """The rating in a cell; None where the cell is empty."""
    if column not in row:
        raise InputError(
            f"{where}: there is no column `{column}`{nearest(column, row)}",
            fix=f"say where the rating stands with --rating; its columns: {', '.join(row)}",
        )
    cell = row[column]
    if cell is None or cell == "":
        return None
    given = on_scale(columns.means.get(str(cell), cell), rubric)
    if given is None:
        raise InputError(
            f"{where}: the rating {cell!r} is not on the scale of {rubric.name}, which has {scale_words(rubric)}",
            fix=f"mend it, or say what it means: --means {cell}=…",
        )
    return given


def on_scale(cell: Any, rubric: Rubric) -> Given | None:
    """A cell as a rating; None where it is none. A step of a pair is taken as the choice it stands for."""
    match rubric.scale:
        case Pairwise(choices=choices, steps=steps):
            if isinstance(cell, str) and cell in choices:
                return choices[choices.index(cell)]
            step = _whole(cell)
            return choice_of(step) if step is not None and step in steps else None
        case Likert(steps=steps):
            step = _whole(cell)
            return step if step is not None and step in steps else None
        case Attributes(attributes=attributes, answers=answers, labels=labels):
            try:
                given = json.loads(cell) if isinstance(cell, str) else cell
            except ValueError:
                return None
            if not isinstance(given, Mapping) or set(given) != set(attributes):
                return None
            if labels is None:
                words = {name: _YES_NO.get(str(value).lower(), "") for name, value in given.items()}
                return words if all(words.values()) else None
            whole = {name: step for name, value in given.items() if (step := _whole(value)) is not None}
            return whole if [step in answers for step in whole.values()] == [True] * len(attributes) else None


def scale_words(rubric: Rubric) -> str:
    """The values a rating may have, as people read them."""
    match rubric.scale:
        case Pairwise(choices=choices, steps=steps):
            return f"{', '.join(choices)}, or {', '.join(map(str, steps))}"
        case Likert(steps=steps):
            return f"{steps[0]} to {steps[-1]}"
        case Attributes(attributes=attributes, answers=answers, labels=labels):
            each = "yes or no" if labels is None else f"{answers[0]} to {answers[-1]}"
            return f"{each} by {', '.join(attributes)}"


def _whole(cell: Any) -> int | None:
    """A whole number, also as a csv file writes it."""
    try:
        number = float(cell) if isinstance(cell, int | float | str) and not isinstance(cell, bool) else None
    except ValueError:
        return None
    return int(number) if number is not None and number.is_integer() else None


def _turned(given: Given) -> Given:
    turned: Mapping[Any, Choice] = {"A": "B", "B": "A", "TIE": "TIE"}
    return turned[given]
