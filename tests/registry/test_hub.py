"""A hub model comes from the cache, or is downloaded once; whatever prevents it is said in two lines and seconds."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.registry.hub import snapshot
from tests.local_server import free_port
from tests.patience import once_in_three
from tests.registry.artifacts import safetensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "f" * 40


class Hub(ThreadingHTTPServer):
    """A hub with one model, `org/name`; counts the files it gave away."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.commit = COMMIT
        self.status = 200
        self.error_code = ""
        self.given: list[str] = []

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.status != 200:
            return self.status, {"X-Error-Code": self.error_code}, b"{}"
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/org/name/tree/"):
            return 200, {}, json.dumps([self._entry(name) for name in self.files]).encode()
        if path.startswith("/api/models/org/name"):
            if parts[-2:] and parts[-1] not in ("name", "main", self.commit):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            return 200, {}, json.dumps({"id": "org/name", "sha": self.commit, "siblings": siblings}).encode()
        if path.startswith("/org/name/resolve/"):
            name = "/".join(parts[4:])
            self.given.append(name)
            return 200, {"ETag": f'"{name}-{self.commit}"', "X-Repo-Commit": self.commit}, self.files[name]
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": f"{name}-{self.commit}"}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def _reply(self) -> None:
        status, headers, body = self.server.reply(self.path.split("?")[0])
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = _reply

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the machine may forbid it; nothing leaves it here
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return tmp_path / "hub"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        "config.json": b"{}",
        "model.safetensors": safetensors(1.0),
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"twice",
        "onnx/model.json": b"other",
        "README.md": b"# card",
    }
    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def ignore(line: str) -> None:
    pass


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")


def test_safetensors_json_tokenizer_and_card_are_downloaded_and_nothing_else(hub: Hub, cache: Path) -> None:
    said: list[str] = []
    folder, commit = snapshot("org/name", None, say=said.append)
    assert commit == COMMIT
    assert cache in folder.parents
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    (line,) = said
    assert "4 files" in line


def test_the_second_time_nothing_is_downloaded(hub: Hub) -> None:
    first = snapshot("org/name", None, say=ignore)
    hub.given.clear()
    assert snapshot("org/name", None, say=ignore) == first
    assert not hub.given


def test_a_branch_that_moved_is_downloaded_again_and_a_commit_is_not_asked_for(hub: Hub) -> None:
    snapshot("org/name", None, say=ignore)
    hub.commit = LATER
    assert snapshot("org/name", None, say=ignore)[1] == LATER
    hub.status = 500
    assert snapshot("org/name", COMMIT, say=ignore)[1] == COMMIT


def test_offline_the_cached_one_is_taken(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = snapshot("org/name", None, say=ignore)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.status = 500
    assert snapshot("org/name", None, say=ignore) == first


def test_a_hub_that_is_down_is_said_and_the_cached_one_taken(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = snapshot("org/name", None, say=ignore)
    unreachable(monkeypatch)
    said: list[str] = []
    assert snapshot("org/name", None, say=said.append) == first
    assert "using commit 0123456789ab" in said[0]


def test_half_a_download_does_not_count(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = snapshot("org/name", None, say=ignore)
    (folder / "model.safetensors").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentFault):
        snapshot("org/name", None, say=ignore)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert (snapshot("org/name", None, say=ignore)[0] / "model.safetensors").exists()


@once_in_three
def timed_fault(revision: str | None = None) -> LlmopsError:
    begun = time.monotonic()
    with pytest.raises(LlmopsError) as caught:
        snapshot("org/name", revision, say=ignore)
    assert time.monotonic() - begun < 5
    assert "\n" not in caught.value.problem
    assert "\n" not in caught.value.fix
    return caught.value


def test_offline_and_not_here_says_how_to_bring_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = timed_fault("v2")
    assert isinstance(error, EnvironmentFault)
    assert "org/name is not on this machine" in error.problem
    assert "HF_HUB_OFFLINE" in error.problem
    assert "`hf download org/name --revision v2`" in error.fix
    assert str(cache / "models--org--name") in error.fix


def test_a_hub_that_cannot_be_reached_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    error = timed_fault()
    assert "the hub does not answer" in error.problem
    assert "hf download org/name" in error.fix


def test_a_hub_that_accepts_and_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.3")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "the hub does not answer" in timed_fault().problem


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        pytest.param(401, "GatedRepo", EnvironmentFault, "org/name is gated", id="gated, no account"),
        pytest.param(403, "GatedRepo", EnvironmentFault, "org/name is gated", id="gated, terms not accepted"),
        pytest.param(401, "RepoNotFound", InputError, "no model org/name", id="private or misspelt"),
        pytest.param(404, "RepoNotFound", InputError, "no model org/name", id="not there"),
        pytest.param(404, "RevisionNotFound", InputError, "no revision", id="no such revision"),
        pytest.param(503, "", EnvironmentFault, "does not answer (status 503)", id="hub ill"),
    ],
)
def test_a_refusal_is_told_by_its_meaning(hub: Hub, status: int, code: str, kind: type[LlmopsError], said: str) -> None:
    hub.status, hub.error_code = status, code
    error = timed_fault("main")
    assert isinstance(error, kind)
    assert said in error.problem


def test_pickled_weights_are_refused_before_they_are_downloaded(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    error = timed_fault()
    assert "only pickled weights (pytorch_model.bin)" in error.problem
    assert not hub.given


def test_a_name_the_hub_could_never_have_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be a model of the hub"):
        snapshot("org/na..me", None, say=ignore)
