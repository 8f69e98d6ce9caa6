"""Two people on two machines share a real MLflow server and a real PostgreSQL: what one decides, the other sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.records import Report, Score
from llmops.registry import store
from llmops.registry.connection import connect
from llmops.registry.decisions import chain, check_chain
from llmops.registry.promote import approve, promote, registered, rollback, verify
from llmops.workspace import Workspace
from tests.local_server import free_port
from tests.patience import HANG_S
from tests.registry.artifacts import LICENSED, manifest_of, write_model
from tests.registry.registrations import verdict


class MlflowServer:
    """`mlflow server` in a process group of its own."""

    def __init__(self, folder: Path, database: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "server.db").write_bytes(database.read_bytes())
        self.artifacts = folder / "artifacts"
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        places: list[str | Path] = [
            "--backend-store-uri",
            f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination",
            self.artifacts,
        ]
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(port), "-w", "1", *places],
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        end = time.monotonic() + 3 * HANG_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < end, self._log.read_text()
                time.sleep(0.1)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(HANG_S)


@pytest.fixture
def server(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    one = MlflowServer(tmp_path / "server", migrated)
    try:
        one.wait()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", one.uri)
        yield one
    finally:
        one.kill()


def test_the_whole_way_over_two_servers_and_one_that_dies(
    server: MlflowServer,
    postgresql_database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMOPS_DATABASE_URL", postgresql_database)
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    made = []
    for number in (1, 2):
        folder = write_model(tmp_path / f"run{number}", value=float(number))
        report = Report("s", "m", "d", 10, (Score("bleu", 30.0 + number, "case:lc"),), {})
        one = store.register("m", folder, manifest_of(folder), [report], workspace=here, facts=LICENSED)
        registered(one, verdict(str(one.digest)), workspace=here)
        approve(one, "ann", workspace=here)
        made.append(one)
    assert [one.scores for one in store.versions("m", workspace=there)] == [{"s.bleu": 32.0}, {"s.bleu": 31.0}]

    # The other machine has nothing but the two addresses; the bytes come from the server and are checked.
    for number in (1, 2):
        promote(store.find("m", str(number), workspace=there), "bob", workspace=there)
    fetched = store.fetch(store.find("m", "champion", workspace=there), workspace=there)
    assert fetched.is_relative_to(there.home)
    assert folder_digest(fetched) == made[1].digest
    seen = store.find("m", "champion", workspace=here)
    assert (seen.version, store.find("m", "previous", workspace=here).version) == (2, 1)

    rollback("m", "ann", reason="rude", workspace=here)
    assert store.find("m", "champion", workspace=there).version == 1
    connect(server.uri).set_registered_model_alias("m", "champion", "2")
    assert verify("m", workspace=there) == ["champion was at models:/m/2, by the decisions it is at models:/m/1"]
    assert store.find("m", "champion", workspace=here).version == 1
    with pytest.raises(InputError, match="models:/m/2 is not approved"):
        promote(made[1], "bob", workspace=there)

    # Bytes that changed on the server are not taken by a machine that has none yet.
    for weights in server.artifacts.rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(EnvironmentFault, match="are not those that were registered"):
        store.fetch(made[0], workspace=Workspace(tmp_path / "third"))
    assert not list((tmp_path / "third" / "objects" / "models").glob("*"))

    approve(made[1], "ann", workspace=here)
    before = chain(open_database(here), "m")
    check_chain(before)
    assert [link.kind for link in before][-4:] == ["promote", "promote", "rollback", "approve"]
    server.kill()
    with pytest.raises(EnvironmentFault, match=f"the MLflow server {server.uri} does not answer"):
        promote(made[1], "bob", workspace=there)
    assert chain(open_database(here), "m") == before, "nothing was decided"
