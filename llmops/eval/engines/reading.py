"""What a model makes of given tokens: how likely each is to it, and what it would have written instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmops.events import Listener


@dataclass(frozen=True, slots=True)
class Passage:
    """Token ids to be read; those from `start` on are looked at, `start` being at least 1."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.ids):
            raise ValueError(f"a passage of {len(self.ids)} tokens cannot be read from token {self.start} on")


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Of the `n` tokens of a passage from its start on, each given all tokens before it.

    Attributes:
        logprobs: `(n,)` in nats; NaN where an engine tells those of the likeliest tokens alone.
        best: `(n,)` ids of the likeliest tokens.
        ids, at: `(n, k)` other tokens and their log-probabilities in nats.
    """

    logprobs: NDArray[np.float64]
    best: NDArray[np.int64]
    ids: NDArray[np.int64]
    at: NDArray[np.float64]


class Reader(Protocol):
    """Whatever reads passages with the one model it was made for."""

    def __call__(self, passages: Sequence[Passage], *, listener: Listener) -> list[Reading]: ...
