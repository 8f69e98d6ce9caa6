"""What the tests of generation share: items to ask a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmops.eval.items import Item
from llmops.files import digest_of


def item_of(prompt: str, *references: str, **slices: str) -> Item:
    messages = ({"role": "user", "content": prompt},)
    return Item(digest_of(list(messages)), messages, prompt, references or ("r",), slices)


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Item]:
    """An item from its prompt, its references and its slices."""
    return item_of
