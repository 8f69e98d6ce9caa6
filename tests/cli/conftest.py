"""A workspace whose registry holds two versions, of which one passed its gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.eval.gates import Gate
from llmops.eval.verdict import judge
from llmops.registry import store
from llmops.registry.promote import registered
from llmops.workspace import Workspace
from tests.eval.measurements import right
from tests.registry.artifacts import LICENSED, manifest_of, write_model

GATE = Gate.model_validate({"rules": [{"suite": "s", "metric": "exact_match", "at_least": 0.5}]})


@pytest.fixture
def home(make_workspace: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    return make_workspace(tmp_path / "home")


@pytest.fixture
def two_versions(
    home: Workspace,
    tmp_path: Path,
) -> Workspace:
    """The first passed its gate, the second did not."""
    for number, share in ((1, 0.9), (2, 0.1)):
        folder = write_model(tmp_path / f"run{number}", value=float(number))
        version = store.register("m", folder, manifest_of(folder), workspace=home, facts=LICENSED)
        report = right([place < share * 100 for place in range(100)])
        report = replace(report, model={**report.model, "digest": version.digest})
        registered(version, judge(GATE, {"s": report}, {}, name="g.yaml", against=None), workspace=home)
    return home
