"""A streamed answer put together as if it had come in one piece, for what is kept of it. Off the hot path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llmops.serve.events import Events, data_of


def assembled(sent: bytes) -> dict[str, Any]:
    """The answer of a stream as the client got it, in the API's dialect it was in; what is missing stays missing."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for value in _values(sent):
        kind = value.get("type")
        if isinstance(value.get("response"), dict):
            answer = value["response"]
        elif kind == "message_start" and isinstance(value.get("message"), dict):
            answer = {**value["message"], "content": list(value["message"].get("content") or [])}
        elif isinstance(kind, str) and (kind.startswith("content_block") or kind == "message_delta"):
            _message(answer, kind, value)
        elif "choices" in value:
            answer |= {name: said for name, said in value.items() if name != "choices" and said is not None}
            for choice in value["choices"]:
                _choice(choices.setdefault(choice.get("index", 0), {"index": choice.get("index", 0)}), choice)
        elif "error" in value:
            answer["error"] = value["error"]
    if choices:
        answer["choices"] = [choices[index] for index in sorted(choices)]
        answer["object"] = str(answer.get("object", "")).removesuffix(".chunk")
    return answer


def _values(sent: bytes) -> Iterator[dict[str, Any]]:
    for event in Events().feed(sent):
        data = data_of(event)
        if data is not None and data != b"[DONE]":
            try:
                value = orjson.loads(data)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict):
                yield value


def _choice(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for name, said in part.items():
        if name == "delta" and isinstance(said, dict):
            _delta(whole.setdefault("message", {}), said)
        elif name == "text" and isinstance(said, str):
            whole["text"] = whole.get("text", "") + said
        elif name == "logprobs" and isinstance(said, dict):
            kept = whole.setdefault("logprobs", {})
            for kind, values in said.items():
                kept[kind] = kept.get(kind, []) + values if isinstance(values, list) else values
        elif said is not None:
            whole[name] = said


def _delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, said in delta.items():
        if name == "tool_calls" and isinstance(said, list):
            calls = message.setdefault("tool_calls", [])
            for call in said:
                _call(calls, call)
        elif isinstance(said, str) and name != "role":
            message[name] = (message.get(name) or "") + said
        elif said is not None:
            message[name] = said


def _call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """A tool call comes in pieces with one `index`: its id and name first, its arguments bit by bit."""
    index = part.get("index", len(calls))
    call = next((one for one in calls if one["index"] == index), None)
    if call is None:
        call = {"index": index}
        calls.append(call)
    for name, said in part.items():
        if name == "function" and isinstance(said, dict):
            function = call.setdefault("function", {"arguments": ""})
            function["arguments"] += said.get("arguments") or ""
            function |= {key: value for key, value in said.items() if key != "arguments" and value is not None}
        elif said is not None:
            call[name] = said


def _message(answer: dict[str, Any], kind: str, value: dict[str, Any]) -> None:
    blocks: list[dict[str, Any]] = answer.setdefault("content", [])
    delta = value.get("delta") or {}
    if kind == "content_block_start":
        blocks.append(dict(value.get("content_block") or {}))
    elif kind == "content_block_delta" and blocks:
        for name, said in delta.items():
            if name != "type" and isinstance(said, str):
                blocks[-1][name] = (blocks[-1].get(name) or "") + said
    elif kind == "message_delta":
        answer |= delta
        answer["usage"] = {**(answer.get("usage") or {}), **(value.get("usage") or {})}
