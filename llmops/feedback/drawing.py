"""How some of many items are drawn with a known probability each, and which prompts are nearly the same."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmops.data.dedup import NearDuplicates
from llmops.data.formats import one_line
from llmops.feedback.items import ItemKind, NewItem, Response

SIMILARITY = 0.8
"""Jaccard similarity of word 5-grams from which two prompts share a cluster."""


NOT_TEXT = "not_text"
"""In a response's detail: the source held something else than a text there, such as a JSON boolean."""


def with_probability(item: NewItem, probability: float) -> NewItem:
    """The item after one more step that drew it."""
    return replace(item, probability=item.probability * probability)


def item_of(
    prompt: Sequence[Mapping[str, Any]],
    responses: Sequence[Response],
    source: Mapping[str, Any],
    *,
    probability: float = 1.0,
    kind: ItemKind = "normal",
    language: str | None = None,
    priority: int = 0,
    tags: Sequence[str] = (),
    expected: Mapping[str, Any] | None = None,
) -> NewItem:
    """An item whose prompt is a cluster of its own until `clustered` says otherwise."""
    digest = prompt_digest(prompt)
    return NewItem(
        tuple(prompt), tuple(responses), digest, digest, source, probability, kind,
        priority=priority, language=language, tags=tuple(tags), expected=expected,
    )  # fmt: skip


def prompt_text(prompt: Sequence[Mapping[str, Any]]) -> str:
    """All turns as one text, by which prompts are compared."""
    return "\n".join(f"{turn['role']}: {one_line(str(turn['content']))}" for turn in prompt)


def prompt_digest(prompt: Sequence[Mapping[str, Any]]) -> str:
    """sha256 (hex) of `prompt_text`."""
    return hashlib.sha256(prompt_text(prompt).encode()).hexdigest()


def clustered(
    items: Iterable[NewItem], known: Iterable[tuple[Sequence[Mapping[str, Any]], str]] = ()
) -> Iterator[NewItem]:
    """The items, each with its cluster: the digest of the first prompt that is nearly the same.

    Clusters keep items of one prompt on one side of a split, and together when intervals are computed. Of the items
    one text each stays in memory.

    Args:
        known: prompts of items that the campaign has already, with their clusters.
    """
    texts: list[str] = []
    near = NearDuplicates(SIMILARITY, text_of=texts.__getitem__)
    exact: dict[str, str] = {}

    def cluster(prompt: Sequence[Mapping[str, Any]], own: str) -> str:
        text = prompt_text(prompt)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest not in exact:
            first = near.first(text, len(texts))
            texts.append(text)
            exact[digest] = own if first is None else exact[hashlib.sha256(texts[first].encode()).hexdigest()]
        return exact[digest]

    for prompt, own in known:
        cluster(prompt, own)
    for item in items:
        yield replace(item, cluster=cluster(item.prompt, item.prompt_digest))


def drawn(weights: Sequence[float], sample: int | None, draw: random.Random) -> list[tuple[int, float]]:
    """Places of `sample` items in random order, likelier the heavier they are, each with its probability.

    Systematic sampling with unequal probabilities in random order (Madow 1949): every inclusion probability is exactly
    min(1, c · weight) with c such that they add up to `sample`, and so many items are drawn.

    Args:
        weights: positive, one an item.
        sample: how many; None takes all.
    """
    order = list(range(len(weights)))
    draw.shuffle(order)
    chances = inclusion(weights, sample)
    at = draw.random()
    chosen = []
    reached = 0.0
    for place in order:
        reached += chances[place]
        if chances[place] >= 1 or reached > at:  # rounding must not lose what is drawn for sure
            chosen.append((place, chances[place]))
            at += 1
    return chosen


def inclusion(weights: Sequence[float], sample: int | None) -> list[float]:
    """The probability of each item to be among `sample` of them; 1 for all where so many are wanted."""
    if any(not weight > 0 for weight in weights):
        raise ValueError("weights are positive")
    if sample is None or sample >= len(weights):
        return [1.0] * len(weights)
    sure: set[int] = set()
    while True:
        rest = sum(weight for place, weight in enumerate(weights) if place not in sure)
        scale = (sample - len(sure)) / rest
        more = {place for place, weight in enumerate(weights) if place not in sure and weight * scale >= 1}
        if not more:
            return [1.0 if place in sure else weight * scale for place, weight in enumerate(weights)]
        sure |= more
