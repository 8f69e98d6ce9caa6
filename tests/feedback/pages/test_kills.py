"""No kill of the real server or the real browser loses a rating or stores one twice; `tests/benchmarks/test_kills.py`
does the same for longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.chromium import chromium_program
from tests.feedback.kill_run import rated_through_kills

pytestmark = pytest.mark.xdist_group("rating-page")


def test_each_rating_is_stored_exactly_once_through_kills_of_server_and_browser(sqlite: Engine, tmp_path: Path) -> None:
    seen = rated_through_kills(
        sqlite, tmp_path / "home", tmp_path, chromium_program(), items=24, raters=1, kills=2, seed=1
    )
    assert (seen.ratings, seen.stored) == (24, 24)
    assert (seen.server_kills, seen.browser_kills) == (1, 1)
    assert seen.faultless, seen.said()
