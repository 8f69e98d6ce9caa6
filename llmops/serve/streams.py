"""A streamed answer as the client is to see it: framing, ends, usage and errors, whatever the engine sends.

Knows bytes, not connections: `feed` takes what came in any pieces and gives what goes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmops.serve.events import Events, TooLarge, data_of
from llmops.serve.naming import Renaming, name_in
from llmops.serve.usage import Usage, usage_of

DONE = b"data: [DONE]\n\n"
_LAST = (b"response.completed", b"response.failed", b"response.incomplete", b"message_stop")


class Cut(Exception):
    """A stream that ended before its end."""


class Stream:
    """One answer of an engine on its way to the client.

    Attributes:
        begun: an event with data has been given out; before, comments are held back, so that another replica can
            still answer instead.
        done: the answer is whole; what comes later is not looked at.
        failed: the error that the engine put into its stream, as it said it; what comes later is not looked at.
        usage: tokens, as far as they were said.
    """

    def __init__(self, *, route: str, choices: int = 1, usage_asked: bool = False, usage_in_all: bool = False) -> None:
        """Args:
        choices: how many answers the request asks for.
        usage_in_all: the client asked for usage in every event, too (`continuous_usage_stats`).
        """
        self.begun = False
        self.done = False
        self.failed: Any = None
        self.usage = Usage()
        self._parts = 0
        self._route = route
        self._choices = choices
        self._usage_asked = usage_asked
        self._usage_in_all = usage_in_all
        self._events = Events()
        self._held: list[bytes] = []
        self._renaming: Renaming | None = None
        self._read_all = False
        self._ended: set[int] = set()
        self._usage_event: bytes | None = None
        self._like: dict[str, Any] = {}

    def tokens(self) -> Usage:
        """What the engine said; where it did not come to that, at least one token for each event given out."""
        return self.usage if self.usage.completion is not None else self.usage._replace(completion=self._parts)

    @property
    def over(self) -> bool:
        return self.done or self.failed is not None

    def feed(self, data: bytes) -> bytes:
        """What the client gets for `data`; may be nothing.

        Raises:
            Cut: an event does not end.
        """
        try:
            events = self._events.feed(data)
        except TooLarge as error:
            raise Cut(str(error)) from error
        out: list[bytes] = []
        for event in events:
            if self.over:
                break
            self._take(event, out)
        return b"".join(out)

    def end(self) -> bytes:
        """What the client gets when the engine has closed the connection in order.

        Raises:
            Cut: the answer was not whole.
        """
        out: list[bytes] = []
        rest = self._events.rest()
        if rest and not self.over:
            data = data_of(rest)
            if data is not None and (data == b"[DONE]" or _read(data) is not None):
                self._take(rest, out)
        if not self.over:
            if len(self._ended) < self._choices:
                raise Cut("the engine ended in the middle of its answer")
            self._finish(out)
        return b"".join(out)

    def _take(self, event: bytes, out: list[bytes]) -> None:
        data = data_of(event)
        if data is None:
            (out if self.begun else self._held).append(event + b"\n\n")
            return
        if data == b"[DONE]":
            self._finish(out)
            return
        made = self._data(data)
        if made is None:
            return
        self._parts += 1
        if not self.begun:
            self.begun = True
            out += self._held
        if b"\n" not in event:
            out.append(b"data: " + made + b"\n\n")
            return
        lines = [line for line in event.split(b"\n") if not line.startswith(b"data:")]
        out.append(b"\n".join([*lines, *(b"data: " + line for line in made.split(b"\n"))]) + b"\n\n")
        if any(last in line for line in lines for last in _LAST):
            self.done = True

    def _data(self, data: bytes) -> bytes | None:
        """One event's data as it goes out; None: not at all, or not yet."""
        if self._renaming is None or self._read_all:
            return self._read_through(data)
        renamed = self._renaming.bytes(data)
        if renamed is not None:
            data = renamed
        said_usage = b'"usage"' in data and b'"usage":null' not in data
        ends = data.count(b'"finish_reason"') > data.count(b'"finish_reason":null')
        if said_usage or ends or b'"error"' in data:
            return self._read_through(data)
        return self._with_usage_null(data)

    def _read_through(self, data: bytes) -> bytes | None:
        value = _read(data)
        if not isinstance(value, dict):
            return data
        if value.get("error") or value.get("type") == "error":
            self.failed = value.get("error") or value
            return None
        if self._renaming is None:
            self._like = {name: value[name] for name in ("id", "object", "created") if name in value}
            name = name_in(value)
            self._renaming = Renaming(name or self._route, self._route)
            self._read_all = name is not None and self._renaming.bytes(data) is None
        changed = False
        if self._read_all:
            value, changed = self._renaming.value(value), True
        else:
            data = self._renaming.bytes(data) or data
            if value.get("model") is not None:
                value["model"] = self._route
        said = usage_of(value)
        if said is not None:
            self.usage = self.usage.updated(said)
        if "choices" not in value:
            return written(value) or data if changed else data
        choices = value["choices"]
        if said is not None and not choices:
            # Held until the end: there it is the last event, however often the engine says it.
            self._usage_event = written(value) or data if changed else data
            return None
        twice = self._ends_twice(choices)
        if twice and all(_empty(choice) for choice in choices):
            return None
        changed = changed or twice
        if said is not None and not (self._usage_asked and self._usage_in_all):
            value.pop("usage", None)
            changed = True
        return self._with_usage_null(written(value) or data if changed else data)

    def _ends_twice(self, choices: Any) -> bool:
        """Notes which choices end; takes the end away from those that had ended. True where one was taken."""
        twice = False
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("finish_reason") is None:
                continue
            index = choice.get("index")
            if type(index) is not int:
                continue
            if index in self._ended:
                choice["finish_reason"] = None
                twice = True
            self._ended.add(index)
        return twice

    def _with_usage_null(self, data: bytes) -> bytes:
        """`usage` is null before the last event where it was asked for, and absent where it was not."""
        if b'"choices"' not in data:
            return data
        if self._usage_asked:
            return data if b'"usage"' in data or data[-1:] != b"}" else data[:-1] + b',"usage":null}'
        return data.replace(b',"usage":null', b"", 1)

    def _finish(self, out: list[bytes]) -> None:
        if self._usage_asked and not self._usage_in_all and self._usage_event is None and self.usage != Usage():
            self._usage_event = orjson.dumps(
                {**self._like, "model": self._route, "choices": [], "usage": _as_said(self.usage)}
            )
        if not self.begun:
            self.begun = True
            out += self._held
        if self._usage_asked and self._usage_event is not None:
            out.append(b"data: " + self._usage_event + b"\n\n")
        out.append(DONE)
        self.done = True


def error_event(error: Mapping[str, Any], endpoint: str) -> bytes:
    """The last event of a stream that failed after its first byte."""
    if endpoint in {"/v1/responses", "/v1/messages"}:
        return b"event: error\ndata: " + orjson.dumps({"type": "error", "error": error}) + b"\n\n"
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def _read(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def written(value: Any) -> bytes | None:
    """None where it is nested too deep to be written."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None


def _empty(choice: Any) -> bool:
    """A choice that says nothing but that it has ended."""
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    said = [choice.get("text"), *(delta.values() if isinstance(delta, dict) else ())]
    return not any(said)


def _as_said(usage: Usage) -> dict[str, Any]:
    said: dict[str, Any] = {
        "prompt_tokens": usage.prompt or 0,
        "completion_tokens": usage.completion or 0,
        "total_tokens": usage.total(),
    }
    if usage.cached is not None:
        said["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return said
