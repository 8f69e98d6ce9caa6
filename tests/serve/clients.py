"""What a client sends and gets, and the rows that are written of it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.patience import HANG_S, wait_until
from tests.serve import fake_engine as fake
from tests.serve.fake_engine import LAST, STREAM, chunk, event
from tests.serve.gateways import Running

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
WORDS = fake.chunks_of({"model": "served-small"}, ["a", "b"])


def post(url: str, body: Any = ASK, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body; the whole of a stream."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HANG_S)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, raw, {"content-type": "application/json", **names})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def error(raw: bytes) -> dict[str, Any]:
    """The error of a body, which must be of the form clients know."""
    said: dict[str, Any] = json.loads(raw)["error"]
    assert set(said) == {"message", "type", "param", "code"}
    assert said["message"]
    return said


def data(raw: bytes) -> list[Any]:
    parts = [one.removeprefix(b"data: ") for one in raw.split(b"\n\n") if one.startswith(b"data: ")]
    return [one if one == b"[DONE]" else json.loads(one) for one in parts]


def stream(*values: Any, done: bool = True) -> bytes:
    return STREAM + b"".join(chunk(event(one)) for one in values) + (chunk(event(b"[DONE]")) + LAST if done else b"")


def entries(gateway: Running, count: int = 1) -> list[Any]:
    """The rows; each is written at the very end, when the client has its answer already."""
    wait_until(lambda: len(gateway.notes.observed) >= count)
    assert len(gateway.notes.entries) == count
    assert gateway.notes.observed == gateway.notes.entries
    return gateway.notes.entries


def entry_of(gateway: Running, headers: Any) -> Any:
    """The row of an answer."""

    def found() -> list[Any]:
        return [entry for entry in gateway.notes.observed if entry.id == headers["x-request-id"]]

    wait_until(found, "it was not written down")
    return found()[0]
