"""A small OpenAI-compatible server over real HTTP, which says and fails as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def chat(text: str | None, *, finish: str = "stop", tokens: int = 3) -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}).encode()


@dataclass
class Served:
    """What a server says, and what it was asked and when."""

    says: Callable[[int, dict[str, Any]], Reply]
    models: Reply = (200, {}, b'{"object": "list", "data": [{"id": "m", "root": "/weights/m", "created": 1}]}')
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        if method == "GET":
            return self.models if path == "/v1/models" else (404, {}, b"")
        with self.lock:
            self.asked.append(json.loads(body))
            self.paths.append(path)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            number = len(self.asked)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.says(number, json.loads(body))
        finally:
            with self.lock:
                self.at_once -= 1


class _Server(ThreadingHTTPServer):
    # By default 5: of more at one time, the rest would wait a second for another try of TCP.
    request_queue_size = 128


@contextmanager
def serving(says: Callable[[int, dict[str, Any]], Reply], **settings: Any) -> Iterator[Served]:
    served = Served(says, **settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", b"")

        def do_POST(self) -> None:
            self._answer("POST", self.rfile.read(int(self.headers["content-length"])))

        def _answer(self, method: str, body: bytes) -> None:
            status, headers, content = served.reply(
                method, self.path, body, {name.lower(): value for name, value in self.headers.items()}
            )
            try:
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client waited no longer

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def echo(number: int, body: dict[str, Any]) -> Reply:
    return chat(f"to {body['messages'][-1]['content']}")
