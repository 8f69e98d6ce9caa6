"""The requests of a batch, read from a file a few rows at a time: OpenAI's batch format, or columns of one's own."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmops.data.filetypes import filetype_of, rows_in
from llmops.data.templates import UnusableCell, columns_in, fill
from llmops.errors import Fault, FileFaults, InputError, nearest
from llmops.files import file_digest

Kind = Literal["openai", "columns"]
CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
PATHS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)
_NAMED = 5  # faults that are told of one file


@dataclass(frozen=True, slots=True)
class Form:
    """How the rows of a file become requests.

    Attributes:
        model: asked for in every request, also where a row names another.
        prompt: a column, or text with `{column}` in it; None takes OpenAI's format or the column `messages`.
        system, max_tokens, temperature: of requests made of columns; None leaves it out.
    """

    model: str
    prompt: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `row` counts from 0, `path` is such as `/v1/chat/completions`."""

    row: int
    custom_id: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a first look at the whole file found.

    Attributes:
        columns: of a file of columns, with what all its cells are: `text`, `integer`, `number`, `truth` or `json`.
    """

    file: Path
    kind: Kind
    rows: int
    digest: str
    columns: Mapping[str, str] = field(default_factory=dict)


def scan(file: Path, form: Form, *, allowed: Callable[[Request], str | None] = lambda _: None) -> Scanned:
    """Read the whole file once, in memory that does not grow with it but for 8 bytes a row, before anything is asked.

    Args:
        allowed: says what is wrong with a request for whoever answers it; None is nothing.

    Raises:
        FileFaults: up to five rows that are no requests, or whose ids stand there twice.
        InputError: the file is missing, empty or of no known kind, or lacks the columns.
    """
    kind: Kind | None = None
    hashes = array("Q")
    faults: list[Fault] = []
    cells: dict[str, set[str]] = {}
    for row, (line, columns) in enumerate(_rows(file)):
        if kind is None:
            kind = _kind(file, columns, form)
        try:
            request = _request(row, columns, form, kind)
        except _NoRequest as error:
            problem: str | None = str(error)
        else:
            problem = allowed(request)
            hashes.append(_hash(request.custom_id))
        if problem:
            faults.append(Fault("", problem, line))
            if len(faults) >= _NAMED:
                break
        if kind == "columns":
            for name, value in columns.items():
                cells.setdefault(name, set()).add(_cell(value))
    if kind is None:
        raise InputError(f"{file} has no rows", fix="give a file with at least one request")
    if not faults and kind == "openai":
        faults = _twice(file, form, hashes)
    if faults:
        raise FileFaults(str(file), faults, what="batch file", fix="mend these rows; nothing was asked yet")
    return Scanned(file, kind, len(hashes), file_digest(file), {name: _type(found) for name, found in cells.items()})


def requests_in(scanned: Scanned, form: Form) -> Iterator[Request]:
    """The requests of a file that `scan` found to be in order, one at a time."""
    for row, (_, columns) in enumerate(_rows(scanned.file)):
        yield _request(row, columns, form, scanned.kind)


def columns_of(scanned: Scanned) -> Iterator[dict[str, Any]]:
    """The rows as they stand in the file, one at a time."""
    for _, columns in _rows(scanned.file):
        yield columns


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    filetype = filetype_of(file.name)
    if filetype is None:
        raise InputError(f"{file}: the ending does not say how it is written", fix="name it .jsonl, .csv or .parquet")
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        beside = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
        raise InputError(f"there is no file {file}{nearest(file.name, beside)}", fix="check the path") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})", fix="give a file that can be read") from error
    with opened:
        yield from rows_in(opened, filetype, name=str(file))


def _kind(file: Path, first: Mapping[str, Any], form: Form) -> Kind:
    if form.prompt is not None:
        wanted = columns_in(form.prompt) or (form.prompt,)
        for name in wanted:
            if name not in first:
                raise InputError(
                    f"{file} has no column {name!r}{nearest(name, first)}",
                    fix=f"name one that it has with --prompt: {', '.join(map(str, first))}",
                )
        return "columns"
    if "custom_id" in first and "body" in first:
        return "openai"
    if "messages" in first:
        return "columns"
    raise InputError(
        f"{file} is neither in OpenAI's batch format (custom_id, method, url, body) nor has it a column `messages`",
        fix=f"name the column with the prompt: --prompt {next(iter(first), 'COLUMN')}",
    )


class _NoRequest(ValueError):
    """A row that is no request; the message says why."""


def _request(row: int, columns: Mapping[str, Any], form: Form, kind: Kind) -> Request:
    return _as_sent(row, columns, form) if kind == "openai" else _of_columns(row, columns, form)


def _as_sent(row: int, columns: Mapping[str, Any], form: Form) -> Request:
    custom_id, method, path = columns.get("custom_id"), columns.get("method", "POST"), columns.get("url", CHAT)
    if not isinstance(custom_id, str) or not custom_id:
        raise _NoRequest("custom_id: a text is needed")
    if method != "POST":
        raise _NoRequest(f"method: {method!r} is not POST")
    if path not in PATHS:
        raise _NoRequest(f"url: {path!r} is none of {', '.join(PATHS)}")
    body = _json(columns.get("body"))
    if not isinstance(body, dict):
        raise _NoRequest("body: an object is needed")
    if body.get("stream"):
        raise _NoRequest("body.stream: a batch has whole answers; leave it out")
    return Request(row, custom_id, path, {**body, "model": form.model})


def _of_columns(row: int, columns: Mapping[str, Any], form: Form) -> Request:
    if form.prompt is None:
        messages = _json(columns.get("messages"))
        if not isinstance(messages, list) or not messages or not all(map(_is_turn, messages)):
            raise _NoRequest("messages: a list of turns with role and content is needed")
    else:
        template = form.prompt if columns_in(form.prompt) else f"{{{form.prompt}}}"
        try:
            messages = [{"role": "user", "content": fill(template, columns)}]
        except UnusableCell as error:
            raise _NoRequest(str(error)) from error
    if form.system is not None:
        messages = [{"role": "system", "content": form.system}, *messages]
    body: dict[str, Any] = {"model": form.model, "messages": messages}
    if form.max_tokens is not None:
        body["max_tokens"] = form.max_tokens
    if form.temperature is not None:
        body["temperature"] = form.temperature
    return Request(row, f"row-{row + 1}", CHAT, body)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str)


def _json(cell: Any) -> Any:
    """The value in a cell; in a csv it stands there as JSON."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        return None


def _hash(custom_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=8).digest())


def _twice(file: Path, form: Form, hashes: Sequence[int]) -> list[Fault]:
    """Ids that stand there twice; ids whose hashes alone are equal are looked at again."""
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, np.uint64) if isinstance(hashes, array) else np.asarray(hashes, np.uint64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    faults: list[Fault] = []
    if not suspects:
        return faults
    seen: Counter[str] = Counter()
    for line, columns in _rows(file):
        custom_id = str(columns["custom_id"])
        if _hash(custom_id) in suspects:
            seen[custom_id] += 1
            if seen[custom_id] > 1:
                faults.append(Fault("", f"custom_id: {custom_id!r} stood there before", line))
            if len(faults) >= _NAMED:
                break
    return faults


def _cell(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "truth"
        case int():
            return "integer" if -(2**63) <= value < 2**63 else "json"
        case float():
            return "number"
        case str():
            return "text"
    return "json"


def _type(found: set[str]) -> str:
    """What a column of such cells is."""
    found = found - {"nothing"}
    if found <= {"text"}:
        return "text"
    if found <= {"integer", "number"}:
        return "number" if "number" in found else "integer"
    return found.pop() if len(found) == 1 else "json"
