"""Items and a suite of them, and an evaluation of a small model that can be followed and killed."""

from __future__ import annotations

import signal
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from llmops.eval.cache import AnswerCache
from llmops.eval.engines.transformers import generate
from llmops.eval.items import Item
from llmops.eval.run import evaluate
from llmops.eval.suite import Suite
from llmops.events import Listener, Silent
from llmops.files import digest_of
from llmops.records import ModelSource

SUITE = Suite.model_validate(
    {
        "name": "s",
        "items": {"source": "s.csv", "prompt": "{q}", "references": "{a}"},
        "generation": {"max_tokens": 9},
        "scorers": [{"bleu": {}}, {"chrf": {}}, {"rouge": {}}, {"exact_match": {}}],
    }
)


def item_of(prompt: str, *references: str, **slices: str) -> Item:
    messages = ({"role": "user", "content": prompt},)
    return Item(digest_of(list(messages)), messages, prompt, references or ("r",), slices)


class Halting(Silent):
    """Says on a pipe what it hears, and comes back no more once half of the answers are there."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def advance(self, what: str, done: int, total: int | None) -> None:
        self.pipe.send((what, done, total))
        while what == "answers" and 2 * done == total:
            signal.pause()


def asked(model: Path, kept: Path, listener: Listener) -> str:
    """The digest of an evaluation over eight questions, two answers at a time."""
    items = [item_of(f"question {k}") for k in range(8)]
    engine = partial(generate, model, batch=2, precision="fp32", cache=AnswerCache(kept, "m"))
    return evaluate(SUITE, items, ModelSource("m", model, None, "m"), generate=engine, listener=listener).digest


def asked_halfway(model: Path, kept: Path, pipe: Connection) -> None:
    asked(model, kept, Halting(pipe))
