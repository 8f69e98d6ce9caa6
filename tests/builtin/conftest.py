"""Fixtures of the embedded bases' tests: a tokenizer, and definitions so short that making a base takes seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmops.builtin.definition import TINY, Definition
from llmops.builtin.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(TINY)


@pytest.fixture(scope="session")
def short() -> Definition:
    """Trained on next to nothing: enough to see that making is whole, single and repeatable."""
    return replace(TINY, layers=1, vocabulary=512, steps=2, tokens=256, sampled=300)
