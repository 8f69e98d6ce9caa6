"""A campaign of a million items in a workspace of its own, made once for all that measure on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.million_items import make


@pytest.fixture(scope="session")
def million_items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The workspace's folder; gigabytes, so it goes as soon as the session ends."""
    home = tmp_path_factory.mktemp("million-items")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LLMOPS_DATABASE_URL", raising=False)
        make(home)
        yield home
    shutil.rmtree(home)
