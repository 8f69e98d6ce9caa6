"""The domains of invented text, by name, and their rows: `builtin:domain/split` of a recipe.

Rows follow from the domain, the split and this code alone. A prompt belongs to `train` or to `test` by its hash,
so the splits share none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from llmops.builtin import writing
from llmops.errors import InputError, nearest

SPLITS = ("train", "test")

_TEST_ONE_IN = 8
_TRIES_PER_ROW = 50


@dataclass(frozen=True, slots=True)
class Domain:
    """One kind of text.

    Attributes:
        write: draws a prompt with its completion.
        train, test: the most rows a split has; a domain with few distinct prompts has fewer.
        pretrained: whether the embedded bases have seen it.
        share: how often pre-training draws it, relative to the others.
    """

    write: writing.Writer
    train: int = 2000
    test: int = 150
    pretrained: bool = True
    share: float = 1.0


DOMAINS = {
    "restaurants": Domain(writing.restaurant, share=1.5),
    "weather": Domain(writing.weather),
    "trains": Domain(writing.train),
    "books": Domain(writing.book),
    "pets": Domain(writing.pet),
    "concerts": Domain(writing.concert),
    "houses": Domain(writing.house),
    "records": Domain(writing.record, share=1.0),
    "profiles": Domain(writing.profile),
    "arithmetic": Domain(writing.arithmetic, share=0.3),
    "calendar": Domain(writing.calendar, share=0.2),
    "edits": Domain(writing.edit, share=1.0),
    "copies": Domain(writing.copy, share=1.0),
    "reminders": Domain(writing.packing),
    "greetings": Domain(writing.greeting),
    "festivals": Domain(writing.festival, pretrained=False),
}


def rows(domain: str, split: str) -> Iterator[dict[str, str]]:
    """The rows of a domain's split, always the same in the same order, each prompt once.

    Yields:
        `prompt` and `completion`.

    Raises:
        InputError: no such domain or split.
    """
    if domain not in DOMAINS:
        raise InputError(
            f"no embedded domain is called {domain!r}{nearest(domain, DOMAINS)}",
            fix=f"use one of: {', '.join(DOMAINS)}",
        )
    if split not in SPLITS:
        raise InputError(
            f"the embedded domain {domain} has no split {split!r}{nearest(split, SPLITS)}",
            fix=f"use one of: {', '.join(f'builtin:{domain}/{name}' for name in SPLITS)}",
        )
    return _rows(DOMAINS[domain], f"{domain}/{split}", split)


def _rows(domain: Domain, seed: str, split: str) -> Iterator[dict[str, str]]:
    draw = Random(seed)
    wanted = domain.train if split == "train" else domain.test
    seen: set[str] = set()
    for _ in range(wanted * _TRIES_PER_ROW):
        if len(seen) == wanted:
            return
        prompt, completion = domain.write(draw)
        if prompt not in seen and split_of(prompt) == split:
            seen.add(prompt)
            yield {"prompt": prompt, "completion": completion}


def split_of(prompt: str) -> str:
    """The split a prompt belongs to, whatever its domain: one in eight is `test`."""
    return "test" if hashlib.sha256(prompt.encode()).digest()[0] % _TEST_ONE_IN == 0 else "train"


def conversations(seed: int) -> Iterator[list[dict[str, str]]]:
    """An endless stream of conversations to pre-train on, from the `train` side of every pre-trained domain.

    Most are one question and one answer; some carry a system turn, some go on to a second question.
    """
    draw = Random(f"conversations/{seed}")
    seen = [domain for domain in DOMAINS.values() if domain.pretrained]
    shares = [domain.share for domain in seen]
    while True:
        turns: list[dict[str, str]] = []
        if draw.random() < 0.05:
            turns.append({"role": "system", "content": draw.choice(_SYSTEM)})
        for _ in range(2 if draw.random() < 0.1 else 1):
            prompt, completion = draw.choices(seen, shares)[0].write(draw)
            while split_of(prompt) == "test":
                prompt, completion = draw.choices(seen, shares)[0].write(draw)
            turns.append({"role": "user", "content": prompt})
            turns.append({"role": "assistant", "content": completion})
        yield turns


_SYSTEM = (
    "Answer in one sentence.",
    "You are a friendly assistant.",
    "Be brief and use only what you are told.",
    "You write for a local newspaper.",
)
