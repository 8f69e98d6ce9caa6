"""Reading the body of a request in any of the API's dialects, whatever a client wrote into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """One message; `other` where it holds something that is no text: an image, sound, a file."""

    role: str
    text: str
    other: bool = False


def turns_of(body: Mapping[str, Any]) -> list[Turn]:
    """The messages of chat (`messages`), completions (`prompt`), responses (`input` after `instructions`), messages
    (`system` before `messages`) and embeddings (`input`), in their order.

    What has no readable form is a turn with `other`, so that nobody takes it for an empty one.
    """
    found: list[Turn] = []
    for key in ("system", "instructions"):
        if body.get(key):
            found.append(_turn("system", body[key]))
    for key in ("messages", "input", "prompt"):
        given = body.get(key)
        if given is None:
            continue
        if isinstance(given, str):
            found.append(Turn("user", given))
        elif isinstance(given, Sequence):
            found += _several(given)
        else:
            found.append(Turn("user", "", other=True))
    return found


def _several(given: Sequence[Any]) -> Iterator[Turn]:
    """Messages, or prompts side by side; a list of token ids is one prompt that cannot be read."""
    if given and all(type(one) is int for one in given):
        yield Turn("user", "", other=True)
        return
    for one in given:
        if isinstance(one, str):
            yield Turn("user", one)
        elif isinstance(one, Mapping) and "role" in one:
            turn = _turn(str(one["role"]), one.get("content"))
            calls = one.get("tool_calls")
            yield turn._replace(text=f"{turn.text}\n{written(calls)}") if calls else turn
        elif isinstance(one, Mapping) and "output" in one:  # of a tool, among the items of `responses`
            yield _turn("tool", one["output"])
        elif isinstance(one, Mapping) and "arguments" in one:
            yield Turn("assistant", written(one["arguments"]))
        else:
            yield Turn("user", "", other=True)


def _turn(role: str, content: Any) -> Turn:
    if content is None or isinstance(content, str):
        return Turn(role, content or "")
    if not isinstance(content, Sequence):
        return Turn(role, "", other=True)
    texts, other = [], False
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping) and part.get("type") == "tool_result":
            inner = _turn("tool", part.get("content"))
            texts.append(inner.text)
            other |= inner.other
        elif isinstance(part, Mapping) and part.get("type") == "tool_use":
            texts.append(written(part.get("input")))
        else:
            other = True
    return Turn(role, "\n".join(texts), other)


def written(value: Any) -> str:
    """A JSON value as the engine's template will write it, about; nothing where it is nested too deeply to write."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return ""


def opening(body: Mapping[str, Any]) -> str:
    """What a conversation begins with: everything up to and with the first message of the user."""
    begun: list[list[str]] = []
    for turn in turns_of(body):
        begun.append([turn.role, turn.text])
        if turn.role == "user":
            break
    return written(begun)


def answer_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that the answer may take at most, as asked; 0 where nothing is asked."""
    for key in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        given = body.get(key)
        if type(given) is int and given > 0:
            return given
    return 0


def tools_of(body: Mapping[str, Any]) -> list[Any]:
    """Tools that the model may call, none where it must not."""
    given = body.get("tools") or body.get("functions")
    return list(given) if isinstance(given, list) and body.get("tool_choice") != "none" else []


def schema_of(body: Mapping[str, Any]) -> Any:
    """The form that the answer must have, None where it is free text."""
    text = body.get("text")
    for given in (body.get("response_format"), text.get("format") if isinstance(text, Mapping) else None):
        if isinstance(given, Mapping) and given.get("type", "text") != "text":
            return given
    for key in ("guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs"):
        if body.get(key):
            return body[key]
    return None
