"""Prompts and answers that are kept: chosen by chance on the way, put together and redacted before they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from llmops.data.privacy import redact_all
from llmops.serve.entry import Captured
from llmops.serve.settings import Capture
from llmops.serve.whole_answer import whole_answer

MOST_BYTES = 1_000_000
"""Of a request and its answer together; longer ones are not kept, since reading them would hold up others."""
DAY_S = 86_400.0


class Sampler:
    """Chooses which requests of a route are kept."""

    def __init__(self, draw: Callable[[], float] | None = None) -> None:
        """Draw from [0, 1) by `draw`; by default by chance."""
        self._draw = draw or Random().random

    def chosen(self, capture: Capture | None) -> bool:
        """Whether a request of a route that says `capture` is kept; decided before it is answered."""
        return capture is not None and self._draw() < capture.share

    def captured(
        self, capture: Capture, *, request_id: str, at: float, request: bytes, answer: bytes
    ) -> Captured | None:
        """What the ledger is to keep of a chosen request that came at `at`; None where it is too long.

        Args:
            request, answer: bodies as they came; of a stream, all its bytes. They are read when they are written.
        """
        if len(request) + len(answer) > MOST_BYTES:
            return None
        return Captured(request_id, capture.share, request, answer, at + capture.keep_days * DAY_S)


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
