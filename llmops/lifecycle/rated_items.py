"""What a campaign asks about: items out of the ledger, of evaluation reports or of rows in a file, and its gold."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from llmops.data.fetched import read_fetched
from llmops.data.section import Origin
from llmops.data.templates import UnusableCell, columns_in, fill
from llmops.errors import InputError, nearest
from llmops.eval import measured
from llmops.events import Listener, Silent
from llmops.feedback.campaign import LANGUAGE, ByJudges, Campaign, FromLedger, FromReports, FromRows, Kind, Part
from llmops.feedback.drawing import NOT_TEXT, drawn, item_of, with_probability
from llmops.feedback.items import NewItem, Response
from llmops.feedback.verdicts import Pair, Scores, Thumb, Verdict
from llmops.lifecycle.disagreement import drawn_by, judged, policy_of, reported
from llmops.lifecycle.rated_ledger import ledger_items
from llmops.rubric import Likert, Rubric

if TYPE_CHECKING:
    from sqlalchemy import Engine

_VERDICT: TypeAdapter[Any] = TypeAdapter(Verdict)
_MOST_NAMED = 5
_SILENT = Silent()


@dataclass(frozen=True, slots=True)
class Made:
    """Items to put into a campaign.

    Attributes:
        ratings: for each item the ratings it came with, by rater; empty where it came with none.
        left_out: rows that cannot be rated, as `place: why`.
        notes: what else is to be told of them.
    """

    items: tuple[NewItem, ...]
    ratings: tuple[Mapping[str, Mapping[str, Any]], ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def items_of(
    campaign: Campaign,
    rubric: Rubric,
    engine: Engine,
    draw: random.Random,
    *,
    at: float | None = None,
    listener: Listener = _SILENT,
) -> Made:
    """The items of a campaign.

    Args:
        engine: the database with the ledger.
        at: of the ledger's requests, those until then are drawn from; None: all.
        listener: hears what judges are asked, where items are drawn by them.

    Raises:
        InputError: a source cannot be read, nothing in it can be rated, or nothing tells how likely it is to be drawn.
        EnvironmentFault: a judge's server does not answer.
    """
    match campaign.items:
        case FromLedger() as wanted:
            ask = partial(_judged, campaign.rubric, listener)
            items, unusable = ledger_items(engine, wanted, campaign.kind, draw, at=at, ask=ask)
            note = f"{unusable} kept requests cannot be rated: no text, cut short, or no second answer that differs"
            return Made(tuple(items), notes=(note,) if unusable else ())
        case FromReports() as wanted:
            return _of_reports(wanted, campaign.kind, draw)
        case FromRows() as wanted:
            return _of_rows(wanted, campaign.kind, rubric, draw)


def _judged(rubric: str, listener: Listener, wanted: ByJudges, items: Sequence[NewItem]) -> list[float]:
    return judged(wanted, rubric, items, listener=listener)


def _of_reports(wanted: FromReports, kind: Kind, draw: random.Random) -> Made:
    reports = [measured.read(Path(one)) for one in wanted.reports]
    needed = {"pairwise": (2, 2), "ranking": (2, 9), "rating": (1, 9), "thumbs": (1, 1), "correction": (1, 1)}[kind]
    if not needed[0] <= len(reports) <= needed[1]:
        raise InputError(
            f"{len(reports)} reports are given, a {kind} campaign takes {needed[0]} to {needed[1]}",
            fix="name one report for each model whose answers are rated, under items.reports",
        )
    first = reports[0]
    for other in reports[1:]:
        if other.suite["digest"] != first.suite["digest"]:
            raise InputError(
                f"{first.name} was measured on {first.suite['name']} and {other.name} on {other.suite['name']}, and "
                "their items or settings differ",
                fix="evaluate both models on one suite",
            )
    answers = [{item.id: item for item in report.items} for report in reports]
    found: list[NewItem] = []
    ids: list[str] = []
    alike = 0
    for item in first.items:
        mine = [of_model[item.id] for of_model in answers if item.id in of_model]
        if len(mine) < len(reports) or not any(one.answer.strip() for one in mine):
            continue
        if kind == "pairwise" and mine[0].answer.strip() == mine[1].answer.strip():
            alike += 1
            continue
        responses = tuple(
            Response(
                one.answer,
                report.name,
                {
                    "digest": report.model.get("digest"),
                    "decoding": report.suite.get("settings", {}).get("generation"),
                    "finish": one.finish,
                    "tokens": one.tokens,
                    "engine": dict(report.engine),
                },
            )
            for one, report in zip(mine, reports, strict=True)
        )
        source = {"reports": [report.digest for report in reports], "item": item.id, "policy": policy_of(wanted.by)}
        ids.append(item.id)
        found.append(item_of(item.messages, responses, source, tags=tuple(item.slices.values())))
    if not found:
        raise InputError(
            f"the reports have no item whose answers differ ({alike} are alike)",
            fix="compare models that do not give the same answers",
        )
    notes = (f"{alike} items are left out: both models gave the same answer",) if alike else ()
    disagreement = [1.0] * len(found) if wanted.by == "uniform" else reported(wanted.by, reports, ids)
    return Made(tuple(drawn_by(disagreement, found, wanted.sample, draw)), notes=notes)


def _of_rows(wanted: FromRows, kind: Kind, rubric: Rubric, draw: random.Random) -> Made:
    found: list[NewItem] = []
    ratings: list[Mapping[str, Mapping[str, Any]]] = []
    left_out: list[str] = []
    booleans = 0
    for line, row in read_fetched(wanted.rows):
        where = f"{wanted.rows.source}:{line}"
        try:
            item = _row_item(wanted, row, where, kind)
            said = {
                column: verdict_of(fill(f"{{{column}}}", row), wanted.means, kind, rubric, where)
                for column in wanted.ratings
                if row.get(column) not in (None, "")
            }
        except UnusableCell as problem:
            _check_there(wanted, row, str(problem))
            left_out.append(f"{where}: {problem}")
            continue
        booleans += sum(NOT_TEXT in one.detail for one in item.responses)
        found.append(item)
        ratings.append(said)
    if not found:
        raise InputError(
            f"{wanted.rows.source} has no row that can be rated: {left_out[0]}",
            fix="name columns with texts under items.prompt and items.responses",
        )
    notes = (
        f"{booleans} responses are no texts but values such as true or false: shown as they are written, and left out "
        "of what is exported",
    )
    chosen = [(place, 1.0) for place in range(len(found))]
    if wanted.sample is not None:
        chosen = drawn([1.0] * len(found), wanted.sample, draw)
    items = tuple(with_probability(found[place], chance) for place, chance in chosen)
    kept = tuple(ratings[place] for place, _ in chosen)
    return Made(items, kept, tuple(left_out), notes if booleans else ())


def _row_item(wanted: FromRows, row: Mapping[str, Any], where: str, kind: Kind) -> NewItem:
    prompt = _prompt(wanted.prompt, row)
    responses = []
    for number, template in enumerate(wanted.responses):
        text, is_text = _answer(template, row)
        model = None if wanted.models is None else _model(wanted.models[number], row)
        responses.append(Response(text, model, {} if is_text else {NOT_TEXT: True}))
    alike = kind == "pairwise" and responses[0].text.strip() == responses[1].text.strip()
    if alike and not wanted.ratings:  # what has been rated is kept as it was rated
        raise UnusableCell("the two answers are the same")
    language = None if wanted.language is None else fill(wanted.language, row).strip() or None
    tags = tuple(tag for template in wanted.tags if (tag := fill(template, row).strip()))
    source = {"row": where, "policy": "uniform"}
    return item_of(prompt, responses, source, language=language, priority=_priority(wanted.priority, row), tags=tags)


def _priority(template: str | None, row: Mapping[str, Any]) -> int:
    text = "0" if template is None else fill(template, row).strip()
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise UnusableCell(f"the priority {text[:40]!r} is no whole number")
    return int(text)


def _prompt(template: str, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    columns = columns_in(template)
    if len(columns) == 1 and template.strip() == f"{{{columns[0]}}}" and isinstance(row.get(columns[0]), list):
        turns = row[columns[0]]
        if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns) or not turns:
            raise UnusableCell(f"the column {columns[0]!r} holds no list of messages with role and content")
        return tuple({"role": str(turn.get("role", "user")), "content": turn["content"]} for turn in turns)
    text = fill(template, row)
    if not text.strip():
        raise UnusableCell("the prompt is empty")
    return ({"role": "user", "content": text.strip()},)


def _answer(template: str, row: Mapping[str, Any]) -> tuple[str, bool]:
    """The text, and whether it was one: a JSON boolean is written as JSON writes it."""
    columns = columns_in(template)
    cells = {name: row[name] for name in columns if isinstance(row.get(name), bool)}
    if not cells:
        return fill(template, row), True
    return fill(template, {**row, **{name: json.dumps(value) for name, value in cells.items()}}), False


def _model(where: str | Part, row: Mapping[str, Any]) -> str:
    if isinstance(where, str):
        return fill(where, row)
    text = fill(f"{{{where.column}}}", row)
    found = re.search(where.pattern, text)
    if found is None:
        raise UnusableCell(f"{where.pattern!r} is not found in the column {where.column!r}: {text[:60]!r}")
    return found[1]


def _check_there(wanted: FromRows, row: Mapping[str, Any], problem: str) -> None:
    """A column that no row can have is the file's fault, not the row's."""
    templates = [wanted.prompt, *wanted.responses, *wanted.tags, *filter(None, [wanted.language, wanted.priority])]
    named = [name for template in templates for name in columns_in(template)]
    named += [one.column for one in wanted.models or () if isinstance(one, Part)] + wanted.ratings
    for name in named:
        if name not in row:
            raise InputError(
                f"{wanted.rows.source} has no column {name!r}{nearest(name, list(row))} ({problem})",
                fix=f"name one of its columns: {', '.join(map(str, row))}",
            )


def verdict_of(written: str, means: Mapping[str, str], kind: Kind, rubric: Rubric, where: str) -> Mapping[str, Any]:
    """A rating out of a table as a verdict, positions being places.

    Raises:
        InputError: it is not on the scale.
    """
    said = means.get(written.strip(), written.strip())
    word = said.upper().replace(" ", "_")
    try:
        match kind:
            case "pairwise":
                words = {"A": 1, "B": -1, "TIE": 0}
                if word == "BOTH_BAD":
                    return Pair(kind="pairwise", both_bad=True).model_dump(mode="json")
                return Pair(kind="pairwise", step=words[word] if word in words else int(said)).model_dump(mode="json")
            case "rating":
                if not isinstance(rubric.scale, Likert):
                    raise ValueError("several attributes do not fit into one column")
                steps = rubric.scale.steps
                if int(said) not in steps:
                    raise ValueError(f"not one of {', '.join(map(str, steps))}")
                return Scores(kind="rating", scores=[int(said)]).model_dump(mode="json")
            case "thumbs":
                if word not in ("UP", "DOWN"):
                    raise ValueError("neither up nor down")
                return Thumb(kind="thumbs", up=word == "UP").model_dump(mode="json")
    except (ValueError, ValidationError) as problem:
        told = str(problem).splitlines()[0]
        raise InputError(
            f"{where}: the rating {written!r} is not on the scale of a {kind} campaign ({told})",
            fix="say under items.means what it means, such as `means: {1: A, 2: B, 0: TIE}`",
        ) from problem
    raise InputError(f"{where}: a {kind} cannot be read from a column", fix="leave items.ratings out")


def gold_of(source: str, kind: Kind) -> Iterator[NewItem]:
    """Gold items out of a file of rows with `prompt`, `responses`, `expected` and, where some raters cannot read them,
    `language`.

    Raises:
        InputError: the file cannot be read, or a row is none; all faults of a row are named.
    """
    for line, row in read_fetched(Origin(source=source)):
        where = f"{source}:{line}"
        try:
            expected = _VERDICT.validate_python({"kind": kind, **dict(row["expected"])})
            responses = row["responses"]
            if not isinstance(responses, list) or not all(isinstance(one, str) for one in responses):
                raise ValueError("`responses` is no list of texts")
            prompt = row["prompt"]
            language = row.get("language") or None
            if language is not None and not re.fullmatch(LANGUAGE, str(language)):
                raise ValueError(f"`language` is {language!r}; write it as en or de-CH")
            turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": str(prompt)}]
        except (KeyError, TypeError, ValueError) as problem:
            told = f"`{problem.args[0]}` is missing" if isinstance(problem, KeyError) else str(problem)
            raise InputError(
                f"{where} is no gold item: {told}",
                fix='write {"prompt": …, "responses": […], "expected": {"step": 2}} with a verdict of a '
                f"{kind} campaign",
            ) from problem
        yield item_of(
            turns,
            [Response(text) for text in responses],
            {"row": where, "policy": "gold"},
            kind="gold",
            language=language,
            expected=expected.model_dump(mode="json"),
        )


def named(lines: Iterable[str]) -> str:
    """The first few of many, for a message."""
    every = list(lines)
    more = f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else ""
    return "; ".join(every[:_MOST_NAMED]) + more
