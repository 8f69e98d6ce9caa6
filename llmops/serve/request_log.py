"""The gateway's log: a line of JSON for every request and everything that is told; no bodies, no secrets."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from llmops.serve.entry import Entry
from llmops.serve.following import Following

_TOLD = (
    "endpoint", "status", "error", "key", "route", "engine", "version", "reason", "prompt_tokens", "completion_tokens",
    "cached_tokens", "first_token", "total", "usd", "retries", "fallback", "from_cache", "side", "shadow_of",
    "escalated", "stream",
)  # fmt: skip


class RequestLog:
    """Where lines go: a file, opened anew when it was moved away (as logrotate does), or standard error."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._opened: int | None = None
        self._lost = 0
        self._following: Following[Entry | str] = Following(self._write, name="request log")

    def record(self, entry: Entry) -> None:
        """Leave a finished request to be written."""
        self._following.put(entry.id, entry)

    def say(self, message: str, *, level: str = "info", **more: Any) -> None:
        """Leave a line that is about no single request to be written."""
        self._following.put(uuid4().hex, _line(time.time(), level, message, more))

    def close(self) -> None:
        """Write what waits; a reader that stands still is not waited for."""
        if self._following.close() and self._opened is not None:
            os.close(self._opened)
            self._opened = None

    @property
    def dropped(self) -> int:
        """Lines that were lost, because the disk was full or nobody read them."""
        return self._lost + self._following.dropped

    def _write(self, some: Sequence[Entry | str]) -> None:
        content = "".join(one if isinstance(one, str) else request_line(one) for one in some).encode()
        try:
            handle = self._handle()
            while content:
                content = content[os.write(handle, content) :]
        except (OSError, ValueError):
            self._lost += len(some)

    def _handle(self) -> int:
        if self._file is None:
            return sys.stderr.fileno()
        if self._opened is not None:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._file), os.fstat(self._opened)):
                    return self._opened
            os.close(self._opened)
            self._opened = None
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._opened = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        return self._opened


class JsonLines(logging.Handler):
    """What the program tells through `logging`, as lines of the same kind."""

    def __init__(self, log: RequestLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        more: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            more["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._log.say(record.getMessage(), level=record.levelname.lower(), **more)


def request_line(entry: Entry) -> str:
    """A request as its line; what is not known is left out."""
    told = {name: value for name in _TOLD if (value := getattr(entry, name)) is not None and value is not False}
    if entry.tags:
        told["tags"] = list(entry.tags)
    level = "error" if entry.status >= 500 else "info"
    return _line(entry.at, level, "request", {"request_id": entry.id, **told})


def _line(at: float, level: str, message: str, more: Mapping[str, Any]) -> str:
    try:
        time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        time = str(at)
    # ASCII alone: no line end of another alphabet, and no half of a surrogate pair, comes out of a client's text.
    return json.dumps({"time": time, "level": level, "message": message, **more}, default=str) + "\n"
