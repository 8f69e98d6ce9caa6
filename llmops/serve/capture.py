"""Prompts and answers that are kept: read, put together and redacted by the writer, before anything is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from llmops.data.privacy import redact_all
from llmops.serve.entry import Captured
from llmops.serve.whole_answer import whole_answer


@dataclass(slots=True)
class Capturing:
    """A prompt and an answer on their way to the database."""

    captured: Captured
    redact: bool

    @property
    def size(self) -> int:
        """Bytes in memory, about; what has been read already is taken for ten thousand."""
        bodies = (self.captured.request, self.captured.answer)
        return 500 + sum(len(one) if isinstance(one, bytes) else 10_000 for one in bodies)

    def settled(self) -> Captured:
        """What is written: JSON values, redacted as the route says."""
        request, answer = read(self.captured.request), read(self.captured.answer)
        if self.redact:
            request, answer = redact_all(request), redact_all(answer)
        return replace(self.captured, request=request, answer=answer)


def read(body: Any) -> Any:
    """A body as a JSON value: a stream put together, what is neither as a text; a value that was read stays."""
    if not isinstance(body, bytes):
        return body
    try:
        return json.loads(body, parse_constant=str)
    except (ValueError, RecursionError):
        pass
    if body.startswith((b"data:", b"event:", b"id:", b":")) or b"\ndata:" in body:
        return whole_answer(body)
    return body.decode("utf-8", "replace")
