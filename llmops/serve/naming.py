"""The name of the model: clients see the route's, engines their own. All else of a body stays, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from llmops.serve.refusal import bad_request

_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*"(?:[^"\\]|\\.)*"')


def for_engine(raw: bytes, body: Mapping[str, Any], model: str, *, changes: Mapping[str, Any] | None = None) -> bytes:
    """The request's bytes with the engine's name for the model and, of the other fields, `changes`.

    Args:
        raw, body: the same object, as it came and as it was read; `model` is one of its texts.
        changes: a field that is there is written anew, which costs the exact spelling of the whole body; one that is
            not is added at its end.

    Raises:
        Refusal: 400; it would have to be written anew and is nested too deep for that.
    """
    changes = changes or {}
    added = {name: value for name, value in changes.items() if name not in body}
    # Written out once, and never with an escape: then that is the field, and not part of a text or a deeper one.
    if len(added) == len(changes) and raw.count(b'"model"') == 1 and b"\\u00" not in raw:
        before, found, after = _parted(raw)
        if found:
            spliced = before + b'"model":' + orjson.dumps(model) + after
            if not added:
                return spliced
            end = spliced.rindex(b"}")
            return spliced[:end] + b"," + orjson.dumps(added)[1:]
    try:
        return orjson.dumps({**body, **changes, "model": model})
    except orjson.JSONEncodeError as error:
        raise bad_request(f"the body cannot be passed on: {error}", code="invalid_json") from error


def _parted(raw: bytes) -> tuple[bytes, bytes, bytes]:
    found = _MODEL.search(raw)
    if found is None:
        return raw, b"", b""
    return raw[: found.start()], found[0], raw[found.end() :]


def name_in(answer: Any) -> str | None:
    """What an answer, or an event of a stream, calls its model."""
    if not isinstance(answer, Mapping):
        return None
    for place in (answer, answer.get("response"), answer.get("message")):
        if isinstance(place, Mapping) and isinstance(name := place.get("model"), str):
            return name
    return None


class Renaming:
    """Puts `route` where an answer says `model`."""

    def __init__(self, model: str, route: str) -> None:
        self._new = b'"model":' + orjson.dumps(route)
        old = orjson.dumps(model)
        self._olds = (b'"model":' + old, b'"model": ' + old)
        self._model = model
        self._route = route

    def bytes(self, raw: bytes) -> bytes | None:
        """With the first name replaced; None where it is not spelt as engines spell it.

        Within a text the quotes would be escaped, so that what is found is a field.
        """
        for old in self._olds:
            if old in raw:
                return raw.replace(old, self._new, 1)
        return None

    def value(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The same for an answer that has been read."""
        for place in (answer, answer.get("response"), answer.get("message")):
            if isinstance(place, dict) and place.get("model") == self._model:
                place["model"] = self._route
        return answer
