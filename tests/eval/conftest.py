"""What the tests of generation share: items to ask a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmops.eval.items import Item
from tests.eval.asking import item_of


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Item]:
    """An item from its prompt, its references and its slices."""
    return item_of
