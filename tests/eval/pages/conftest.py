"""Debian's chromium, started once a module: while its driver lives, an event loop counts as running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chromium import chromium_browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser that shows pages from files."""
    with chromium_browser() as browser:
        yield browser
