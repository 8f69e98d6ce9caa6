"""Rows that somebody else named come from files, or from the public internet; from nowhere else by an http address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmops.data.fetched import read_fetched
from llmops.data.section import Origin
from llmops.errors import InputError


class Rows(BaseHTTPRequestHandler):
    """Two rows at /rows.jsonl, and whatever else is asked for leads there."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path.endswith("/rows.jsonl") else 302)
        body = b'{"prompt": "a"}\n{"prompt": "b"}\n'
        self.send_header("location", "/rows.jsonl")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked for."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Noted", (Rows,), {"asked": asked})) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()
        thread.join()


EXPECTED = [(1, {"prompt": "a"}), (2, {"prompt": "b"})]


def test_a_file_is_read_as_ever(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert list(read_fetched(Origin(source=str(tmp_path / "rows.jsonl")))) == EXPECTED


def test_an_address_is_fetched_and_read_with_its_redirects(server: tuple[str, list[str]]) -> None:
    place, asked = server
    assert list(read_fetched(Origin(source=f"http://{place}/old.jsonl"), private=True)) == EXPECTED
    assert asked == ["/old.jsonl", "/rows.jsonl"]


@pytest.mark.parametrize(
    "source",
    [
        *("http://PLACE/rows.jsonl", "HTTP://PLACE/rows.jsonl", "simplecache::http://PLACE/rows.jsonl"),
        *("zip://rows.jsonl::http://PLACE/a.zip", "filecache::http://PLACE/rows.jsonl", "http://PLACE/rows.zip"),
    ],
)
def test_this_machine_is_not_asked(server: tuple[str, list[str]], source: str) -> None:
    place, asked = server
    with pytest.raises(InputError):
        list(read_fetched(Origin(source=source.replace("PLACE", place))))
    assert asked == []


def test_an_archive_at_an_address_is_not_fetched(server: tuple[str, list[str]]) -> None:
    place, asked = server
    with pytest.raises(InputError, match="says nothing known"):
        list(read_fetched(Origin(source=f"http://{place}/rows.zip"), private=True))
    assert asked == []
