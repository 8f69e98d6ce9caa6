"""Raters' browsers as the service meets them: each opens the page and then asks as its scripts do.

HTTP is spoken by hand over one connection that is kept, all raters in one event loop: little of the cores that are
shared with the service is taken, and how much is told.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit
from uuid import uuid4

import orjson

from tests.benchmarks.rating_load import Waited

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")
COOKIE = "llmops-session"


@dataclass
class Browser:
    """One rater's."""

    address: str
    session: str
    csrf: str = ""

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of what is answered, which no refusal may be."""
        if not hasattr(self, "_in"):
            where = urlsplit(self.address)
            self._in, self._out = await asyncio.open_connection(where.hostname, where.port, limit=4_000_000)
        head = f"{method} {path} HTTP/1.1\r\nhost: {urlsplit(self.address).netloc}\r\naccept: application/json\r\n"
        head += f"cookie: {COOKIE}={self.session}\r\n"
        if method == "POST":
            head += f"origin: {self.address}\r\nsec-fetch-site: same-origin\r\nx-csrf-token: {self.csrf}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._out.write(f"{head}\r\n".encode() + body)
        answered = await self._in.readuntil(b"\r\n\r\n")
        said = await self._in.readexactly(int(found[1]) if (found := _LENGTH.search(answered)) else 0)
        if answered[9:12] != b"200":
            raise AssertionError(f"{method} {path}: {(answered + said).decode()[:2000]}")
        return said

    async def open(self, campaign: str) -> tuple[str, str]:
        """The page; assignment and rubric of the task on it."""
        page = (await self.ask("GET", f"/rate/{campaign}")).decode()
        found = {name: re.search(f'{name}="([^"]+)"', page) for name in ("data-assignment", "data-rubric")}
        token = re.search(r'name="csrf" content="([^"]+)"', page)
        assert token is not None
        self.csrf = token[1]
        assignment, rubric = found["data-assignment"], found["data-rubric"]
        assert assignment is not None, page
        assert rubric is not None
        return assignment[1], rubric[1]

    def close(self) -> None:
        self._out.close()


@dataclass
class Rater:
    """Rates in a browser that is signed in; what is waited for is kept.

    Attributes:
        thinks_s: what they take to decide, on average (exponential). The page then has the task after this one, fetched
            while they think (`ahead`), and it asks how far the campaign is after each rating (`progress`). 0: no pause
            between two, so nothing can be fetched ahead: `next` and the rating, in turn.
    """

    browser: Browser
    campaign: str
    thinks_s: float
    waited: Waited = field(default_factory=Waited)

    def __post_init__(self) -> None:
        self._drawn = Random(self.browser.session)
        self._api = f"/api/campaigns/{self.campaign}"

    async def rate(self, seconds: float) -> None:
        on_page, self._rubric = await self.browser.open(self.campaign)
        end = time.perf_counter() + seconds
        if not self.thinks_s:
            while time.perf_counter() < end:
                await self._send(on_page)
                on_page = await self._task("next")
            return
        await asyncio.sleep(self._drawn.uniform(0, self.thinks_s))
        upcoming = await self._task("ahead")
        while time.perf_counter() < end:
            begun = time.perf_counter()
            await self._send(on_page)
            await self.browser.ask("GET", f"{self._api}/progress")
            on_page, upcoming = upcoming, await self._task("ahead")
            decided = begun + self._drawn.expovariate(1 / self.thinks_s)
            await asyncio.sleep(max(0.0, decided - time.perf_counter()))

    async def _task(self, which: str) -> str:
        asked = time.perf_counter()
        said = await self.browser.ask("POST", f"{self._api}/{which}", b"{}")
        self.waited.tasks.append(time.perf_counter() - asked)
        task = orjson.loads(said)
        assert task["state"] == "task", task
        return str(task["assignment"])

    async def _send(self, assignment: str) -> None:
        rating = {
            "id": str(uuid4()),
            "assignment": assignment,
            "rubric": self._rubric,
            "verdict": {"kind": "pairwise", "step": self._drawn.randint(-3, 3), "both_bad": False},
            "tags": [],
            "spans": [],
            "edits": [],
            "comment": "",
            "active_ms": 1500,
            "total_ms": 1600,
            "viewport": "1280x800",
        }
        body = json.dumps(rating).encode()
        sent = time.perf_counter()
        said = await self.browser.ask("POST", "/api/ratings", body)
        self.waited.stored.append(time.perf_counter() - sent)
        stored = orjson.loads(said)
        assert (stored["id"], stored["again"]) == (rating["id"], False)


async def rate(
    address: str, sessions: Sequence[str], campaign: str, *, seconds: float, thinks_s: float
) -> tuple[Waited, float]:
    """Let all rate at once, each in a session of their own.

    Returns:
        What they waited, and the share of one core that this took by itself.
    """
    raters = [Rater(Browser(address, session), campaign, thinks_s) for session in sessions]
    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(rater.rate(seconds) for rater in raters))
    took = time.perf_counter() - began
    share = (time.process_time() - used) / took
    for rater in raters:
        rater.browser.close()
    all_waited = Waited(
        sorted(one for rater in raters for one in rater.waited.tasks),
        sorted(one for rater in raters for one in rater.waited.stored),
        took,
    )
    return all_waited, share
