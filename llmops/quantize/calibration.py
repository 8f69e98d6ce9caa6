"""Rows to tune the rounding on: rendered as the model is asked, a choice of them that a seed decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.data.chat import encode_rendered, encode_text, render
from llmops.data.formats import answer_turns
from llmops.data.versions import load_version, rows_of, version_folder
from llmops.errors import InputError
from llmops.files import file_digest
from llmops.records import Split
from llmops.workspace import Workspace

LONGEST = 2048
"""Tokens of a row that are used; longer rows are cut there."""
_SHORTEST = 8


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows come from.

    Attributes:
        what: in words.
        digest: of the dataset version, or of the file's bytes.
        file: a jsonl; None for the dataset version `digest`.
    """

    what: str
    digest: str
    file: Path | None = None


def from_file(file: Path) -> Source:
    """Rows of a jsonl: `{"messages": [...]}`, `{"prompt": ..., "completion": ...}` or `{"text": ...}` a line.

    Raises:
        InputError: there is no such file.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}", fix="give a jsonl of rows with --data")
    return Source(str(file), file_digest(file), file)


def from_dataset(digest: str, workspace: Workspace) -> Source | None:
    """The dataset version a run was trained on; None where its rows are not here any more."""
    try:
        load_version(version_folder(workspace.objects, digest))
    except InputError:
        return None
    return Source(f"the validation rows of dataset {digest[:12]}", digest)


def contents(source: Source, workspace: Workspace) -> Iterator[dict[str, Any]]:
    """What the rows hold, in their order: the version's validation rows, its training rows where it has none.

    Raises:
        InputError: a line of the file is none of the forms.
    """
    if source.file is None:
        version = load_version(version_folder(workspace.objects, source.digest))
        split: Split = "validation" if version.rows.get("validation") else "train"
        for row in rows_of(version, split):
            yield dict(row.content)
        return
    with source.file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _content(line, f"{source.file}:{number}")


def encoded(
    rows: Iterable[dict[str, Any]], tokenizer: Any, *, samples: int, seed: int, context: int | None
) -> list[list[int]]:
    """At most `samples` of the rows as token ids, each beginning as the model reads it.

    Which rows are taken depends on the seed and their content, not on their order.

    Args:
        context: tokens the model can read; None where it is not known.

    Raises:
        InputError: no row is left, or the template refuses one.
    """
    longest = min(LONGEST, context or LONGEST)
    ranked = sorted(rows, key=lambda content: _rank(content, seed))
    found: list[list[int]] = []
    for content in ranked:
        ids = _ids(content, tokenizer)[:longest]
        if len(ids) >= _SHORTEST:
            found.append(ids)
        if len(found) == samples:
            break
    if not found:
        raise InputError(
            f"there is no row of {_SHORTEST} tokens or more to tune the rounding on",
            fix="give rows with --data FILE, or round to the nearest with --fast",
        )
    return found


def _rank(content: dict[str, Any], seed: int) -> bytes:
    written = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(f"{seed}:{written}".encode()).digest()


def _ids(content: dict[str, Any], tokenizer: Any) -> list[int]:
    """A preference is read with the answer that was chosen, a labelled answer whatever its label."""
    if "text" in content:
        return encode_text(tokenizer, str(content["text"]))
    turns: Sequence[Any] = content["messages"]
    for key in ("chosen", "completion"):
        if key in content:
            turns = [*turns, *answer_turns(content[key])]
    return encode_rendered(tokenizer, render(tokenizer, turns, content.get("tools"), generation_prompt=False))


def _content(line: str, place: str) -> dict[str, Any]:
    forms = 'write {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...} on each line'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place} is no JSON: {error}", fix=forms) from error
    if isinstance(row, dict):
        if isinstance(row.get("messages"), list) or isinstance(row.get("text"), str):
            return row
        if "prompt" in row and "completion" in row:
            turns = (("user", row["prompt"]), ("assistant", row["completion"]))
            return {"messages": [{"role": role, "content": str(said)} for role, said in turns]}
    raise InputError(f"{place} is no row to calibrate on", fix=forms)
