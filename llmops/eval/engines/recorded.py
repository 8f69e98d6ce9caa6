"""Answers that were made elsewhere, read from a file: paired with items by id or by prompt, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.data.section import Origin
from llmops.data.sources import read
from llmops.errors import Fault, FileFaults, InputError, nearest
from llmops.eval.engines.engine import Answer, Finish, Generated
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of

ANSWER = "answer"
"""The column that holds an answer where nothing else is said."""
_SHOWN = 3  # prompts and ids that a message names
_FAULTS = 10  # of rows that a message names


@dataclass(frozen=True, slots=True)
class _Row:
    """One answer as the file has it; `key` is the item's id or its prompt."""

    line: int
    by: str
    key: str
    text: str
    tokens: int | None
    finish: Finish | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class RecordedAnswers:
    """The answers of one file, each for one item.

    Attributes:
        digest: sha256 over the answers, whatever their order and times: it stands for the model that made them.
    """

    digest: str
    by_item: Mapping[str, Answer]

    def __call__(self, items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        """The file's answers to `items`; `generation` is the suite's, how they were made the file does not say."""
        answers = tuple(self.by_item[item.id] for item in items)
        listener.advance("answers", len(answers), len(items))
        return Generated(answers, 0.0, {"name": "recorded"}, frozenset(item.id for item in items))


def recorded(
    file: Path, items: Sequence[Item], *, column: str = ANSWER, among: Sequence[Item] | None = None
) -> RecordedAnswers:
    """The answers of `file` to `items`: rows with `id` or `prompt`, an answer, and perhaps tokens, finish, seconds.

    Args:
        items: of all suites together; each must have an answer.
        column: holds the answers.
        among: what the file may answer; more than `items` where only a part of a suite is measured.

    Raises:
        InputError: the file is missing, empty, malformed, lacks an item, has one twice or one that nobody asked.
    """
    found = _rows(file, column)
    by_item: dict[str, Answer] = {}
    lines: dict[str, int] = {}
    strangers: list[_Row] = []
    known = {item.id: item for item in (*items, *(among or ()))}
    ids = {"id": {one: [one] for one in known}, "prompt": _by_prompt(known)}
    for row in found:
        match ids[row.by].get(row.key, []):
            case [item]:
                if item in by_item:
                    raise InputError(
                        f"{file}: lines {lines[item]} and {row.line} both answer the prompt "
                        f"{_short(known[item].prompt)}",
                        fix="keep one answer to each prompt, however many references it has",
                    )
                by_item[item] = Answer(item, row.text, row.tokens, row.finish, row.seconds)
                lines[item] = row.line
            case []:
                strangers.append(row)
            case several:
                raise InputError(
                    f"{file}:{row.line}: {len(several)} conversations have the prompt {_short(row.key)}",
                    fix="name the item by `id`, as a report of `llmops eval` has it",
                )
    if strangers:
        shown = "; ".join(f"line {row.line}: {row.by} {_short(row.key)}" for row in strangers[:_SHOWN])
        raise InputError(
            f"{file}: {len(strangers)} of {len(found)} answers are to items that the suite does not have ({shown})",
            fix="leave them out, or name the item by its exact prompt (without `id`) or by the id of a report",
        )
    missing = [item for item in items if item.id not in by_item]
    if missing:
        shown = ", ".join(_short(item.prompt) for item in missing[:_SHOWN])
        raise InputError(
            f"{file} has no answer to {len(missing)} of {len(items)} items, such as {shown}",
            fix="answer all of them, or measure fewer with --limit",
        )
    digest = digest_of([[one.item, one.text, one.tokens, one.finish] for _, one in sorted(by_item.items())])
    return RecordedAnswers(digest, by_item)


def _by_prompt(known: Mapping[str, Item]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in known.values():
        found.setdefault(item.prompt, []).append(item.id)
    return found


def _rows(file: Path, column: str) -> list[_Row]:
    """The rows of the file; every fault of them at once."""
    if not file.is_file():
        raise InputError(f"there is no file {file}", fix="give a jsonl of answers: {prompt, answer} on each line")
    if not file.stat().st_size:
        raise InputError(f"{file} is empty, so there is nothing to judge", fix="give a file with at least one answer")
    rows: list[_Row] = []
    faults: list[Fault] = []
    for line, columns in read(Origin(source=str(file))):
        found = _row(line, columns, column)
        if isinstance(found, _Row):
            rows.append(found)
        else:
            faults.append(found)
    if faults:
        more = [Fault("", f"and {len(faults) - _FAULTS} more")] if len(faults) > _FAULTS else []
        raise FileFaults(
            str(file), faults[:_FAULTS] + more, what="file of answers", fix="mend the rows, or leave them out"
        )
    return rows


def _row(line: int, columns: Mapping[str, Any], column: str) -> _Row | Fault:
    by = "id" if columns.get("id") is not None else "prompt"
    key, text = columns.get(by), columns.get(column)
    if not isinstance(key, str):
        return Fault(by, "must be text" if by in columns else "neither `id` nor `prompt` is there", line)
    if column not in columns:
        return Fault(column, f"missing{nearest(column, columns)} (columns: {', '.join(columns)})", line)
    if not isinstance(text, str):
        return Fault(column, f"must be text, which may be empty (got {text!r})", line)
    tokens, finish, seconds = (columns.get(name) for name in ("tokens", "finish", "seconds"))
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0):
        return Fault("tokens", f"must be a whole number from 0 (got {tokens!r})", line)
    if finish not in (None, "stop", "length"):
        return Fault("finish", f"must be stop or length (got {finish!r})", line)
    if seconds is not None and (not isinstance(seconds, int | float) or not 0 <= seconds < float("inf")):
        return Fault("seconds", f"must be a number from 0 (got {seconds!r})", line)
    return _Row(line, by, key, text, tokens, finish, seconds)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}…")
