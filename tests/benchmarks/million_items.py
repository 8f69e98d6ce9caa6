"""A campaign `c` of a million items that need two ratings each, every item with answers of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from llmops.database import open_database
from llmops.feedback.items import NewItem
from llmops.workspace import Workspace
from tests.feedback.small_campaigns import gold, item, start

ITEMS = 1_000_000
RATERS = [f"r{number}" for number in range(50)]
"""Raters without an account, for a desk without a service."""
FIRST_LETTERS, SECOND_LETTERS = 520, 620
"""Letters of the two answers."""


def make(home: Path) -> None:
    """Fill the workspace's database, and print how far it is."""
    engine = open_database(Workspace(home), keep=1, survives="kill")
    start(engine, _told(), raters=RATERS, overlap=2, gold={"share": 0.05, "source": "g"}, repeat=0.02)
    engine.dispose()


def _told() -> Iterator[NewItem]:
    began, text = time.perf_counter(), _text()
    for number in range(ITEMS):
        if number % 100_000 == 0:
            print(f"\n{number:,} of {ITEMS:,} items after {time.perf_counter() - began:.0f} s", flush=True)
        one, two = number * 7919 % (len(text) // 2), number * 104_729 % (len(text) // 2)
        answers = (text[one : one + FIRST_LETTERS], text[two : two + SECOND_LETTERS])
        yield gold(number) if number % 10_000 == 0 else item(number, answers)


def _text() -> str:
    """Words of Markdown to cut answers from: no two items share one, so that nothing is drawn once for many."""
    drawn = Random(5)
    words = ["".join(drawn.choices("abcdefghijklmnoprstuvw", k=drawn.randint(2, 9))) for _ in range(2_000)]
    words += ["the", "of", "and", "to", "in"] * 100
    signs = [*[" "] * 60, ", ", ". ", ".\n\n", "\n- ", " **", "** ", " `", "` "]
    return "".join(drawn.choice(words) + drawn.choice(signs) for _ in range(200_000))
