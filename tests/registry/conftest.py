"""MLflow for tests: a real SQLite store, and a stub of a server that refuses what it is told to refuse.

The database is migrated once per test run and copied for every test: migration costs two seconds.
"""

from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from llmops.files import folder_digest
from llmops.records import RunManifest
from llmops.registry.connection import connect
from llmops.registry.licence_chain import TAG, Licensed, to_plain
from llmops.workspace import Workspace


@pytest.fixture(scope="session")
def migrated(shared_folder: Path) -> Path:
    """One for all workers: who comes second waits and finds it made."""
    database = shared_folder / "mlflow.db"
    connect(f"sqlite:///{database}")
    return database


@pytest.fixture
def workspace(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    return Workspace(home)


@pytest.fixture(scope="session")
def licensed() -> dict[str, str]:
    """The facts of a version whose base and data may be used; without them it is not promoted."""
    return {TAG: json.dumps(to_plain([Licensed("base", "org/base", "Apache-2.0", "its model card")]))}


@pytest.fixture
def mlflow_stub() -> type[Server]:
    """Call it with what to refuse, and enter `running()`."""
    return Server


class Server(ThreadingHTTPServer):
    """Remembers what it accepted; refuses the parameter `refused` and values longer than `longest`."""

    daemon_threads = True

    def __init__(self, *, refused: str = "", longest: int = 6000) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refused = refused
        self.longest = longest
        self.params: dict[str, str] = {}
        self.metrics: list[tuple[str, float, int]] = []
        self.status = ""
        self.runs_made = 0
        self.batches = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = {"info": {"run_id": "r1", "lifecycle_stage": "active", "status": "RUNNING", "experiment_id": "7"}}
        match path.rsplit("/mlflow/", 1)[-1]:
            case "experiments/get-by-name":
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
            case "experiments/create":
                return 200, {"experiment_id": "7"}
            case "runs/create":
                self.runs_made += 1
                return 200, {"run": run}
            case "runs/get":
                return 200, {"run": run}
            case "runs/update":
                self.status = body.get("status", self.status)
                return 200, {"run_info": run["info"]}
            case "runs/log-batch":
                return self._log(body)
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}

    def _log(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.batches += 1
        for param in body.get("params", []):
            if param["key"] == self.refused or len(param["value"]) > self.longest:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"bad value of {param['key']}"}
        self.params |= {param["key"]: param["value"] for param in body.get("params", [])}
        self.metrics += [(one["key"], float(one["value"]), int(one.get("step", 0))) for one in body.get("metrics", [])]
        return 200, {}


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        path = urlparse(self.path).path
        status, content = (200, {}) if path == "/health" else self.server.answer(path, body)
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def write_model() -> Callable[..., Path]:
    """Writes the smallest folder that counts as a model; `value` makes its bytes differ."""

    def write(folder: Path, value: float = 1.0, config: str = "config.json") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / config).write_text("{}")
        weights = "adapter_model" if config == "adapter_config.json" else "model"
        (folder / f"{weights}.safetensors").write_bytes(safetensors(value))
        return folder

    return write


@pytest.fixture(scope="session")
def write_weights() -> Callable[[float], bytes]:
    return safetensors


def safetensors(value: float) -> bytes:
    """A safetensors file of one number, by the format's definition."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


@pytest.fixture
def manifest_of() -> Callable[..., RunManifest]:
    """The manifest of a run that left `artifact`."""

    def manifest(artifact: Path, **other: Any) -> RunManifest:
        known: dict[str, Any] = {
            "name": "e2e-nlg",
            "digest": "d" * 64,
            "identity": {"base": "b" * 64, "base_revision": "c" * 40, "dataset": "a" * 64, "world": 1},
            "recipe": {
                "name": "e2e-nlg",
                "base": "org/base",
                "data": {"train": [{"source": "hub:org/rows"}]},
                "method": {"kind": "sft"},
                "adapter": {"kind": "lora", "rank": 16, "variant": "plain"},
                "batch": {"sequences": 32},
                "seed": 17,
            },
            "kind": "adapter",
            "artifact_digest": folder_digest(artifact),
            "steps": 100,
            "tokens": 90_000,
            "trained_tokens": 45_000,
            "final_loss": 1.25,
            "validation_loss": 1.5,
            "tokens_per_s": 6000.0,
            "predicted": {"peak_bytes": 1e9, "seconds": 20.0, "tokens_per_s": 5000.0},
            "measured": {"peak_bytes": 1.1e9, "seconds": 15.0, "tokens_per_s": 6000.0},
            "environment": {"python": "3.11.2", "torch": "2.13.0"},
        }
        return RunManifest(**(known | other))

    return manifest
