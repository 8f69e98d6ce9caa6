"""A real MLflow server over HTTP takes runs and models, and gives the bytes to another machine."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmops.files import folder_digest
from llmops.registry.connection import connect
from llmops.registry.reference import resolve
from llmops.registry.store import register, versions
from llmops.registry.tracking import Tracker
from llmops.workspace import Workspace
from tests.registry.artifacts import manifest_of, write_model

# MLflow's own application on a free port; `mlflow server` would need one to be chosen before.
SERVE = """
import mlflow.server
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, mlflow.server.app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def server(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "server.db").write_bytes(migrated.read_bytes())
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path / 'server.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(tmp_path / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        uri = f"http://127.0.0.1:{int(process.stdout.readline())}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri
        process.kill()


def test_a_run_and_its_model_arrive_and_another_machine_can_load_it(server: str, tmp_path: Path) -> None:
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    tracker = Tracker(here, tmp_path / "run")
    tracker.start("first", "e2e", {"seed": 17, "text": "x" * 7000})
    tracker.metrics(1, {"loss": math.nan})
    tracker.metrics(2, {"loss": 2.0})
    tracker.document("reports/mask.json", {"rows": 3})
    unsent = tracker.finish()
    assert not unsent, unsent.lines()
    client = connect(server)
    assert [point.value for point in client.get_metric_history(unsent.run_id, "loss")][1:] == [2.0]
    assert [one.path for one in client.list_artifacts(unsent.run_id, "reports")] == ["reports/mask.json"]

    artifact = write_model(tmp_path / "artifact", config="adapter_config.json")
    for _ in range(2):
        made = register("e2e", artifact, manifest_of(artifact), workspace=here, run_id=unsent.run_id)
    assert len(versions("e2e", workspace=there)) == 1

    found = resolve(made.reference, workspace=there)
    assert there.home in found.folder.parents
    assert found.digest == made.digest == folder_digest(artifact)
    without_run = register("other", artifact, manifest_of(artifact), workspace=here)
    assert without_run.run_id not in (None, unsent.run_id), "the server keeps bytes under a run only, so one is made"
