"""A streamed answer put together to the body it would have been without streaming."""

from __future__ import annotations

import json
from typing import Any

from llmops.serve.events import Events, data_of

_SET = {"role", "type", "id", "index", "name"}
"""Keys of a delta that are said once and may be repeated; all other texts are pieces of a whole."""
_WHOLE = {"chat.completion.chunk": "chat.completion", "text_completion": "text_completion"}


def whole_answer(stream: bytes) -> Any:
    """The answer of a stream as one JSON value.

    Chunks of chat and text completions are merged; what is neither, such as an error in mid-stream, stands under
    `events` as it came. A last event that was cut is left out; an answer without `finish_reason` was cut, too.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    others: list[Any] = []
    for event in Events().feed(stream):
        data = data_of(event)
        if data is None:
            continue
        if data == b"[DONE]":
            break
        try:
            chunk = json.loads(data, parse_constant=str)
        except (ValueError, RecursionError):
            others.append(data.decode("utf-8", "replace"))
            continue
        try:
            _add(whole, choices, chunk)
        except (TypeError, AttributeError, ValueError, KeyError):  # no chunk we know
            others.append(chunk)
    if not whole:
        return {"events": others}
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return {**whole, "events": others} if others else whole


def _add(whole: dict[str, Any], choices: dict[int, dict[str, Any]], chunk: Any) -> None:
    """Merge a chunk; what has another shape raises one of the errors that `whole_answer` expects."""
    kind = _WHOLE[chunk["object"]]
    for choice in chunk.get("choices") or ():
        _add_choice(choices.setdefault(int(choice.get("index", 0)), {}), choice)
    for key, value in chunk.items():
        if key != "choices" and value is not None:
            whole[key] = value
    whole["object"] = kind


def _add_choice(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    for key, value in choice.items():
        if key == "delta":
            _merge(whole.setdefault("message", {}), value or {})
        elif key == "text":
            whole["text"] = whole.get("text", "") + value
        elif key == "logprobs" and isinstance(value, dict):
            whole["logprobs"] = whole.get("logprobs") or {}
            _merge(whole["logprobs"], value)
        elif value is not None or key not in whole:
            whole[key] = value


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    for key, value in piece.items():
        before = whole.get(key)
        if before is None or key in _SET:
            # A list of numbered parts is merged from its first piece on: two parts may come with one number.
            whole[key] = _numbered([], value) if _is_numbered(value) else _copy(value) if value is not None else before
        elif isinstance(before, str) and isinstance(value, str):
            whole[key] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            whole[key] = _numbered(before, value) if _is_numbered(value) else [*before, *value]
        elif value is not None:
            whole[key] = value


def _is_numbered(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "index" in one for one in value)


def _numbered(before: list[Any], pieces: list[dict[str, Any]]) -> list[Any]:
    """Parts, such as tool calls, with the pieces added to the part of their number."""
    parts = {one["index"]: one for one in before}
    for piece in pieces:
        _merge(parts.setdefault(piece["index"], {}), piece)
    return [parts[index] for index in sorted(parts)]


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
