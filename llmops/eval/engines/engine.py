"""What answers the items of a suite: one protocol, whatever makes the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Listener

Finish = Literal["stop", "length", "refused"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to the item with this id; None is what its engine does not know.

    Attributes:
        text: as written, special tokens and the stop text left out.
        tokens: made for it, the one that ended it included.
        finish: `stop` where the model (or a stop text) ended it, `length` where it was cut, `refused` where the
            server filtered it or declined the request; `text` is then what it said.
        seconds: from the start of its batch, or the sending of its request, to its last token.
        confidence: mean probability of its tokens, 0 to 1.
        prompt_tokens: read for it, by the server's count.
    """

    item: str
    text: str
    tokens: int | None
    finish: Finish | None
    seconds: float | None
    confidence: float | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """Answers in the order of the items, and what is needed to repeat them.

    Attributes:
        seconds: wall time in which the fresh answers were made.
        engine: everything but the model and the decoding that an answer may depend on.
        kept: ids of the items whose answers were made in an earlier run, or elsewhere.
    """

    answers: tuple[Answer, ...]
    seconds: float
    engine: Mapping[str, str]
    kept: frozenset[str] = frozenset()


class Engine(Protocol):
    """Whatever answers the items of a suite with the one model it was made for."""

    def __call__(self, items: Sequence[Item], generation: Generation, *, listener: Listener) -> Generated: ...
