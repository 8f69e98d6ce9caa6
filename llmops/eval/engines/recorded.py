"""Answers that were made elsewhere, read from a file and judged like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmops.errors import InputError
from llmops.eval.engines.engine import Answer, Finish, Generated
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Recorded:
    """An engine that makes no answer but looks it up, by the item's id or its exact prompt, never by position.

    Attributes:
        file: jsonl, a line each with `id` or the prompt, and the answer; `tokens`, `finish` and `seconds` if known.
        prompt, answer: where these two stand in a line; dots lead into nested objects (`6b.solution`).
    """

    file: Path
    prompt: str = "prompt"
    answer: str = "answer"

    def digest(self) -> str:
        """sha256 over all answers by what they answer: it stands for the model, whose bytes nobody saw."""
        return digest_of(sorted([str(key), text] for key, text in ((key, one["text"]) for key, one in self._lines())))

    def __call__(self, items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated:
        """The recorded answers to `items`.

        Raises:
            InputError: the file is empty, no jsonl, answers something twice, or leaves items unanswered.
        """
        known = self._by_key()
        found: list[Answer] = []
        missing: list[Item] = []
        for item in items:
            one = known.get(("id", item.id)) or known.get(("prompt", item.prompt))
            if one is None:
                missing.append(item)
            else:
                found.append(Answer(item.id, one["text"], one["tokens"], one["finish"], one["seconds"]))
        if missing:
            first = "; ".join(repr(item.prompt[:60]) for item in missing[:3])
            raise InputError(
                f"{self.file} has no answer to {len(missing)} of {len(items)} items, such as {first}",
                fix=f"add lines with `id` or `{self.prompt}` equal to the item's, or measure fewer with --limit",
            )
        listener.advance("answers", len(found), len(items))
        # None of them was made now: how many a second is not known.
        return Generated(tuple(found), 0.0, {"name": "recorded"}, frozenset(item.id for item in items))

    def _by_key(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        known: dict[tuple[str, str], Mapping[str, Any]] = {}
        for key, one in self._lines():
            if key in known and known[key]["text"] != one["text"]:
                raise InputError(
                    f"{self.file}:{one['line']}: a second, different answer to {key[1][:60]!r}, first in line "
                    f"{known[key]['line']}",
                    fix="leave one of them out",
                )
            known.setdefault(key, one)
        if not known:
            raise InputError(f"{self.file} holds no answers", fix='write lines such as {"prompt": "…", "answer": "…"}')
        return known

    def _lines(self) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the answers in {self.file} cannot be read: {error}", fix="give a jsonl file") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{self.file}:{number} is no JSON: {error}", fix="write one object a line") from error
            text, prompt = _at(row, self.answer), _at(row, self.prompt)
            key = ("id", row["id"]) if isinstance(row, dict) and isinstance(row.get("id"), str) else ("prompt", prompt)
            if not isinstance(text, str) or not isinstance(key[1], str):
                what = self.answer if not isinstance(text, str) else f"id` or `{self.prompt}"
                keys = ", ".join(row) if isinstance(row, dict) else "none"
                raise InputError(
                    f"{self.file}:{number} has no text under `{what}`",
                    fix=f"say where it stands with --answer-key and --prompt-key; its keys: {keys}",
                )
            yield (
                key,
                {
                    "text": text,
                    "line": number,
                    "tokens": _number(row.get("tokens"), int),
                    "finish": _FINISHES.get(str(row.get("finish"))),
                    "seconds": _number(row.get("seconds"), float),
                },
            )


_FINISHES: Mapping[str, Finish] = {"length": "length", "stop": "stop"}


def _number(given: Any, kind: type[Number]) -> Number | None:
    """A number where one was recorded; what is not known is not zero."""
    return kind(given) if isinstance(given, int | float) and not isinstance(given, bool) else None


def _at(row: Any, path: str) -> Any:
    """What stands under a dotted path; a key that itself holds the dots wins."""
    if not isinstance(row, dict):
        return None
    if path in row:
        return row[path]
    for part in path.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row
