"""A site to train at, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmops.workspace import Workspace
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import write_rows, write_suite


@pytest.fixture(autouse=True, scope="module")
def alone_on_this_machine(one_thread: None) -> Iterator[None]:
    """One thread, and MLflow in the workspace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def make_site(random_base: Path, make_workspace: Callable[[Path], Workspace]) -> Callable[[Path], Site]:
    def make(folder: Path) -> Site:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "rows.jsonl")
        write_suite(folder)
        return Site(folder, random_base, make_workspace(folder / "home"))

    return make


@pytest.fixture
def site(make_site: Callable[[Path], Site], tmp_path: Path) -> Site:
    return make_site(tmp_path)
