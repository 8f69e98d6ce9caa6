"""Which requests are kept with their answers, and what is handed over of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import random

from llmops.serve.entry import Captured, Entry
from llmops.serve.settings import AnyRoute, Capture

MOST_BYTES = 1_000_000
"""Of a request and its answer together; longer ones are not kept."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """One request that is kept; bodies are handed over as bytes, and read by whoever writes them down."""

    settings: Capture
    probability: float
    request: bytes

    @classmethod
    def decided(cls, route: AnyRoute, request: bytes, *, shadowed: bool = False) -> Keeping | None:
        """Whether a request is kept, by chance: None where not.

        Args:
            shadowed: a copy of it is answered by another engine: then it is kept in any case, where the route keeps
                any, because the two answers are compared.
        """
        if route.capture is None:
            return None
        copied = route.shadow.share if route.shadow is not None else 0.0
        if not shadowed and random() >= route.capture.share:
            return None
        return cls(route.capture, route.capture.share + copied - route.capture.share * copied, request)

    def captured(self, entry: Entry, answer: bytes) -> Captured | None:
        """With the answer as the client got it, which may be a stream; None where it is too long."""
        if len(self.request) + len(answer) > MOST_BYTES:
            return None
        return Captured(entry.id, self.probability, self.request, answer, entry.at + self.settings.keep_days * DAY_S)
