"""MLflow for tests: a real SQLite store, and a stub of a server that refuses what it is told to refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from llmops.workspace import Workspace
from tests.registry.registrations import Registrar


@pytest.fixture
def workspace(
    make_workspace: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_workspace(tmp_path / "home")


@pytest.fixture
def make(workspace: Workspace, tmp_path: Path) -> Registrar:
    """Registers the next version of a model, with bytes of its own, judged as asked."""
    return Registrar(workspace, tmp_path)


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
