"""Which requests are kept with their answers, and what is handed over of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import random
from typing import Any

import orjson

from llmops.serve.assembly import assembled
from llmops.serve.entry import Captured
from llmops.serve.settings import AnyRoute, Capture


@dataclass(frozen=True, slots=True)
class Keeping:
    """One request that is kept."""

    settings: Capture
    probability: float
    request: Any

    @classmethod
    def decided(cls, route: AnyRoute, request: Any, *, shadowed: bool = False) -> Keeping | None:
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
        return cls(route.capture, 1 - (1 - route.capture.share) * (1 - copied), request)

    def captured(self, request: str, sent: bytes, *, stream: bool) -> Captured:
        """With the answer as the client got it; slow for a long stream."""
        answer = assembled(sent) if stream else orjson.loads(sent)
        return Captured(request, self.probability, self.request, answer, time.time() + self.settings.keep_days * 86_400)
