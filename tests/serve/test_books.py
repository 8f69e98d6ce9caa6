"""A real gateway with keys, limits, ledger, log and metrics: each request is counted once, the same, in all of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from llmops.database import open_database
from llmops.errors import EnvironmentFault
from llmops.serve.books import Books
from llmops.serve.hooks import Everybody
from llmops.serve.keys import create
from llmops.serve.ledger_tables import captured, feedback
from llmops.serve.ledger_usage import entries, usage
from llmops.serve.settings import Gateway
from llmops.workspace import Workspace
from tests.patience import wait_until
from tests.serve.entries import an_entry
from tests.serve.fake_engine import speaking
from tests.serve.gateways import Running, running, settings

ROUTES = {
    "m": {"policy": "direct", "engine": "small", "capture": {"share": 1.0}},
    "other": {"policy": "direct", "engine": "large"},
}
ASK = {"model": "m", "messages": [{"role": "user", "content": "I am ann@example.com"}]}


@dataclass
class Kept:
    books: Books
    gateway: Running
    workspace: Workspace
    folder: Path
    ann: str
    bob: str

    def asks(self, secret: str | None, *bodies: dict[str, Any], path: str = "/v1/chat/completions") -> list[Any]:
        """What the gateway answers one after the other: status, headers and body; a stream's as a text."""

        async def ask() -> list[Any]:
            headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
            found = []
            async with aiohttp.ClientSession(headers=headers) as session:
                for body in bodies:
                    async with session.post(self.gateway.url + path, json=body) as got:
                        names = {name.lower(): value for name, value in got.headers.items()}
                        said = await (got.text() if body.get("stream") else got.json(content_type=None))
                        found.append((got.status, names, said))
            return found

        return asyncio.run(ask())

    def close(self, *, requests: int) -> None:
        """Close the books once so many requests stand in them: that is a moment after each was answered."""
        wait_until(lambda: self.counted() >= requests, f"{requests} requests were never counted")
        self.books.close()

    def counted(self) -> float:
        """The requests of all routes by the metrics, which hear of each after the ledger."""
        lines = [line for line in self.metrics().splitlines() if line.startswith("llmops_requests_total")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def metrics(self) -> str:
        with urllib.request.urlopen(self.gateway.url + "/metrics", timeout=10) as got:
            text: str = got.read().decode()
        return text


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.delenv("LLMOPS_DATABASE_URL", raising=False)
    now, folder = datetime.now(UTC), tmp_path / "configs"
    _, ann = create(folder / "keys.json", "ann", now=now, routes=["m"], rpm=3, tags={"team": "x"})
    _, bob = create(folder / "keys.json", "bob", now=now, budget_usd=1e-12)
    gateway = settings(ROUTES, keys={"file": str(folder / "keys.json")}, telemetry={"log": str(folder / "gateway.log")})
    workspace = Workspace(tmp_path / "home")
    books = Books(gateway, workspace=workspace)
    books.start()
    gatekeeper = books.gatekeeper(gateway)
    books.follow(gatekeeper)
    with running({"small": [speaking()], "large": [speaking()]}, gateway, gatekeeper=gatekeeper) as one:
        one.app.core.recorder, one.app.core.metrics = books, books.metrics
        yield Kept(books, one, workspace, folder, ann, bob)
    books.close()


def test_each_request_is_told_once_and_the_same_everywhere(kept: Kept) -> None:
    answers = kept.asks(kept.ann, ASK, {**ASK, "model": "other"}, ASK, ASK, ASK)
    assert [status for status, _, _ in answers] == [200, 403, 200, 200, 429]
    late = answers[-1]
    assert late[2]["error"]["code"] == "rate_limit_exceeded"
    assert 50 <= int(late[1]["retry-after"]) <= 61
    assert kept.asks(None, ASK)[0][0] == 401
    kept.close(requests=6)
    rows = list(entries(open_database(kept.workspace)))
    assert sorted(row.status for row in rows) == [200, 200, 200, 401, 403, 429]
    assert {row.tags for row in rows if row.status == 200} == {("team=x",)}
    log = [json.loads(line) for line in (kept.folder / "gateway.log").read_text().splitlines()]
    assert {line["request_id"] for line in log} == {row.id for row in rows}
    ids = {headers["x-request-id"] for _, headers, _ in answers}
    assert ids < {row.id for row in rows}
    assert kept.counted() == len(rows)
    (mine,) = [line for line in usage(open_database(kept.workspace), "route") if line.name == "m"]
    assert (mine.requests, mine.prompt_tokens) == (4, sum(row.prompt_tokens or 0 for row in rows))
    for place in (kept.folder / "gateway.log").read_text(), kept.metrics():
        for secret in (kept.ann, "ann@example.com"):
            assert secret not in place


def test_what_the_program_tells_of_itself_stands_in_the_log_too(kept: Kept) -> None:
    logger = logging.getLogger("llmops.gateway")
    logger.error("work in the background failed")
    kept.books.close()
    logger.error("nobody hears this any more")
    lines = [json.loads(line) for line in (kept.folder / "gateway.log").read_text().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [("error", "work in the background failed")]


def test_prompts_and_answers_are_kept_redacted_where_the_route_says_so(kept: Kept) -> None:
    kept.asks(kept.bob, ASK, {**ASK, "stream": True}, {**ASK, "model": "other"})
    kept.close(requests=3)
    with open_database(kept.workspace).connect() as connection:
        rows = connection.execute(select(captured())).all()
    assert len(rows) == 2
    for row in rows:
        assert json.loads(row.request)["messages"][0]["content"] == "I am [EMAIL]"
        assert json.loads(row.answer)["choices"][0]["message"]["content"]
        assert row.until > time.time() + 29 * 86_400


def test_feedback_is_for_ones_own_answers(kept: Kept) -> None:
    ((_, headers, _),) = kept.asks(kept.ann, ASK)
    said = {"request_id": headers["x-request-id"], "thumbs": "up"}
    assert kept.asks(kept.ann, said, path="/v1/feedback")[0][0] == 202
    assert kept.asks(kept.bob, said, path="/v1/feedback")[0][0] == 404
    wait_until(lambda: kept.books.ledger.behind() == 0)  # while the database is being opened, the answer is 503
    assert kept.asks(kept.ann, {**said, "request_id": "none"}, path="/v1/feedback")[0][0] == 404
    kept.books.close()
    with open_database(kept.workspace).connect() as connection:
        (row,) = connection.execute(select(feedback())).all()
    assert (row.request, row.thumb) == (headers["x-request-id"], "up")


def test_what_a_key_spent_is_known_after_a_restart(kept: Kept) -> None:
    bob = kept.gateway.app.core.gatekeeper.who(kept.bob)
    kept.books.record(an_entry(key=bob.id, usd=0.5, at=time.time()))
    kept.books.close()
    gateway = kept.gateway.app.core.settings
    again = Books(gateway, workspace=kept.workspace)
    again.start()
    gate = again.gatekeeper(gateway)
    wait_until(lambda: again.ledger._engine is not None)
    try:
        kept.gateway.app.core.gatekeeper = gate
        ((status, _, body),) = kept.asks(kept.bob, ASK)
        assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    finally:
        again.close()


def test_a_reload_forgets_nothing_while_the_file_of_keys_is_the_same(kept: Kept, tmp_path: Path) -> None:
    gateway = kept.gateway.app.core.settings
    at_work = kept.gateway.app.core.gatekeeper
    assert kept.books.gatekeeper(gateway) is at_work
    moved = Gateway.model_validate({**gateway.model_dump(), "keys": {"file": "others.json"}})
    with pytest.raises(EnvironmentFault, match=r"others\.json"):
        kept.books.gatekeeper(moved)
    assert isinstance(kept.books.gatekeeper(settings()), Everybody)


def test_what_is_only_asked_for_changes_nothing(kept: Kept, tmp_path: Path) -> None:
    """A reload asks for everything first, and may be refused after that."""
    at_work = kept.gateway.app.core.gatekeeper
    gateway = kept.gateway.app.core.settings
    create(tmp_path / "others.json", "eve", now=datetime.now(UTC))
    moved = Gateway.model_validate({**gateway.model_dump(), "keys": {"file": str(tmp_path / "others.json")}})
    for asked in (moved, settings()):
        assert kept.books.gatekeeper(asked) is not at_work
    assert kept.books.gatekeeper(gateway) is at_work, "what keys took is not forgotten"
    assert kept.gateway.app.core.settings.keys is not None
    kept.gateway.app.core.settings.keys.file.write_text("{")
    time.sleep(0.6)
    assert kept.asks(kept.ann, ASK)[0][0] == 200
    assert "llmops_keys_readable 0.0" in kept.metrics(), "of the file at work"
    kept.books.follow(kept.books.gatekeeper(moved))
    assert "llmops_keys_readable 1.0" in kept.metrics()


def test_a_database_that_is_away_from_the_start_stops_no_request(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "away").write_text("a file where a folder should be")
    gateway = kept.gateway.app.core.settings
    books = Books(gateway, workspace=Workspace(tmp_path / "away"))
    books.start()
    try:
        kept.gateway.app.core.recorder, kept.gateway.app.core.metrics = books, books.metrics
        assert kept.asks(kept.bob, ASK)[0][0] == 200
        wait_until(lambda: books.ledger.status().problem)
        assert "llmops_ledger_writable 0.0" in kept.metrics()
        (tmp_path / "away").unlink()
        wait_until(lambda: not books.ledger.behind())
        assert len(list(entries(open_database(Workspace(tmp_path / "away"))))) == 1
    finally:
        books.close()
