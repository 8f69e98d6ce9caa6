"""A rating service for tests: the real application over a real SQLite database, and browsers that ask it without a
socket. Passwords cost almost nothing here, the clock stands until it is moved."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from argon2 import PasswordHasher
from fastapi import APIRouter, FastAPI
from sqlalchemy import Engine

from llmops.feedback.accounts import Accounts
from llmops.feedback.app import application, entrance_of
from llmops.feedback.assembly import pages_of, rendered
from llmops.feedback.entrance import Entrance
from llmops.feedback.openid import Provider
from llmops.feedback.passwords import Passwords
from llmops.feedback.settings import FeedbackService
from llmops.feedback.visitor import EVERY, Role
from tests.prompt_server import Prompt

PORT = 8400
ORIGIN = f"http://127.0.0.1:{PORT}"
PASSWORD = "four plain words together"
NOW = 1_800_000_000.0


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


class Browser:
    """Keeps cookies and sends what browsers send; follows no redirect."""

    def __init__(self, app: FastAPI, *, origin: str = ORIGIN, address: str = "192.0.2.1") -> None:
        self.app = app
        self.origin = origin
        self.address = address
        self.cookies = httpx.Cookies()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.asked(method, path, **more))

    async def asked(
        self,
        method: str,
        path: str,
        *,
        form: Mapping[str, str | Sequence[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> httpx.Response:
        """The same beside others."""
        transport = httpx.ASGITransport(app=self.app, client=(self.address, 40_000))
        async with httpx.AsyncClient(transport=transport, base_url=self.origin, cookies=self.cookies) as client:
            sent = {"accept": "text/html"}
            if method not in ("GET", "HEAD"):
                sent |= {"origin": self.origin, "sec-fetch-site": "same-origin"}
            answer = await client.request(method, path, data=form, headers={**sent, **(headers or {})}, **more)
            self.cookies = client.cookies
            return answer

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, form: Mapping[str, str | Sequence[str]] | None = None, **more: Any) -> httpx.Response:
        return self.ask("POST", path, form=form, **more)

    def submit(self, path: str, form: Mapping[str, str], *, to: str | None = None, **more: Any) -> httpx.Response:
        """Open a page and send its form, with the token that stands in it."""
        return self.post(to or path, {"csrf": token_in(self.get(path).text), **form}, **more)


def token_in(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


def link_in(page: str) -> str:
    """The path of the invitation that a page shows."""
    found = re.search(r"/invitation/[A-Za-z0-9_-]+(?=<)", page)
    assert found is not None, page
    return found[0]


@dataclass
class Service:
    """One service and what is behind it."""

    app: FastAPI
    entrance: Entrance
    clock: Clock
    told: list[str] = field(default_factory=list)

    @property
    def accounts(self) -> Accounts:
        return self.entrance.accounts

    def browser(self, **how: Any) -> Browser:
        return Browser(self.app, **how)

    def person(self, role: Role = "rater", *campaigns: str, login: str | None = None, password: str = PASSWORD) -> str:
        """Somebody with an account; their pseudonym."""
        login = login or f"{role}-{len(self.accounts.people())}"
        secret = self.entrance.invitations.make(role, by="test", campaigns=campaigns or (EVERY,))
        return self.entrance.invitations.accept(secret, login=login, name=login.title(), password=password)

    def signed_in(self, rater: str, **how: Any) -> Browser:
        """A browser with a session of theirs."""
        browser = self.browser(**how)
        secret = self.entrance.sessions.begin(rater)
        browser.cookies.set(self.entrance.cookies.session, secret, domain="127.0.0.1", path="/")
        return browser

    def token(self, browser: Browser) -> str:
        """The token of a browser's session."""
        visitor = self.entrance.sessions.visitor(browser.cookies[self.entrance.cookies.session])
        assert visitor is not None
        return visitor.csrf


def service(
    engine: Engine,
    settings: FeedbackService | None = None,
    *,
    routers: Callable[[Accounts], Sequence[APIRouter]] = lambda accounts: (),
    openid: Provider | None = None,
    port: int = PORT,
    **more: Any,
) -> Service:
    """A service over an empty, migrated database."""
    clock, told = Clock(), list[str]()
    accounts = Accounts(engine, Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)), clock=clock)
    entrance = entrance_of(settings or FeedbackService(), accounts, render=rendered)
    app = application(entrance, port=port, routers=routers(accounts), openid=openid, tell=told.append, **more)
    return Service(app, entrance, clock, told)


@contextlib.contextmanager
def served(
    engine: Engine,
    settings: FeedbackService | None = None,
    *,
    routers: Callable[[Accounts], Sequence[APIRouter]] = lambda accounts: (),
    **more: Any,
) -> Iterator[tuple[str, Service]]:
    """The service on a free port, in a thread: the pages of campaigns, and further routers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # who asks before the server is up waits for it
        port = listening.getsockname()[1]
        house = service(
            engine,
            settings,
            port=port,
            routers=lambda accounts: [*pages_of(engine, accounts), *routers(accounts)],
            **more,
        )
        server = Prompt(uvicorn.Config(house.app, lifespan="off", log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}", house
        finally:
            server.should_exit = True
            thread.join()
