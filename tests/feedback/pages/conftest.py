"""Debian's chromium, started once a module: while its driver lives, an event loop counts as running."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chromium import chromium_browser
from tests.feedback.pages.hands import opened
from tests.feedback.pages.site import FakeDesk, Site, running
from tests.patience import HANG_S


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with chromium_browser() as browser:
        yield browser


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Starts sites, which end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda desk, **rest: stack.enter_context(running(Site(desk, **rest)))


@pytest.fixture
def browse(chromium: Any) -> Iterator[Callable[..., Any]]:
    """New contexts of the browser: each has its own storage, as another computer would. Errors of our scripts fail."""
    contexts: list[Any] = []
    errors: list[str] = []

    def new(**options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(1000 * HANG_S)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        contexts.append(context)
        return context

    yield new
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def rate(serve: Callable[..., Site], browse: Callable[..., Any]) -> Callable[..., tuple[Site, Any]]:
    """A site over a desk, and a tab that shows its first task."""

    def start(desk: FakeDesk, **options: Any) -> tuple[Site, Any]:
        site = serve(desk)
        return site, opened(browse(**options), site)

    return start
