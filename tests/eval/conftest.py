"""What the tests of generation share: a small model whose greedy answers vary, and items to ask it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmops.eval.items import Item
from tests.eval.asking import item_of
from tests.eval.lively_models import small_llama


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Item]:
    """An item from its prompt, its references and its slices."""
    return item_of


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with large random weights, so that each prompt has its own answer and none repeats one token."""
    return small_llama(tmp_path_factory.mktemp("lively"), hidden=32, spread=0.5)
