"""Debian's chromium, which shows what people see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.patience import HANG_S


def chromium_program() -> str:
    """Where it is; the test is skipped without it, on CI it fails."""
    path = shutil.which("chromium")
    if path is None:
        missing = "chromium is not installed; `make debian` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return path


@contextmanager
def chromium_browser() -> Iterator[Any]:
    """A browser; while its driver lives, an event loop counts as running, so that it is started once a module."""
    path = chromium_program()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * HANG_S)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
