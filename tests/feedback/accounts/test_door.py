"""Every request passes the door: its host, its origin, its token, its size; every answer leaves with strict headers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, Request
from sqlalchemy import Engine, select

from llmops.feedback.desk import Desk
from llmops.feedback.door import HEADERS, SAFE
from llmops.feedback.settings import FeedbackService, Limits
from llmops.feedback.static import static_files, static_path
from llmops.feedback.tables import metadata
from llmops.feedback.tasks import NoTask
from tests.feedback.accounts.service import Browser, Service, service
from tests.feedback.accounts.world import World
from tests.patience import HANG_S

JSON = {"accept": "application/json"}


def contents(engine: Engine) -> dict[str, Any]:
    """All rows of all tables."""
    with engine.connect() as connection:
        return {name: connection.execute(select(table)).all() for name, table in metadata().tables.items()}


# Changes.


def changes(everything: World) -> list[str]:
    """All but the widget's, which knows no session that could be ridden on: its tokens are held by its own tests."""
    return [path for method, path in everything.routes if method not in SAFE and not path.startswith("/widget/")]


WAYS: dict[str, dict[str, Any]] = {
    "without a token": {"x-csrf-token": ""},
    "with a wrong token": {"x-csrf-token": "x" * 43},
    "with a token that is no text of a header": {"x-csrf-token": "é".encode()},
    "with another session's token": {"x-csrf-token": "other"},
    "from another site": {"origin": "https://evil.example"},
    "from another port of this machine": {"origin": "http://127.0.0.1:9999"},
    "from a page without an origin": {"origin": "null"},
    "from a frame of another site": {"sec-fetch-site": "cross-site"},
    "from another host of the domain": {"sec-fetch-site": "same-site"},
}


@pytest.mark.parametrize("way", WAYS)
def test_no_change_is_made(everything: World, way: str) -> None:
    """By introspection: all that is no reading, so that a new route is among them."""
    admin = everything.browsers["admin"]
    tokens = {role: everything.token(role) for role in ("admin", "rater")}
    before = contents(everything.house.accounts.engine)
    asked = changes(everything)
    assert len(asked) > 10
    for path in asked:
        headers: dict[str, Any] = {**JSON, "x-csrf-token": tokens["admin"], **WAYS[way]}
        if headers["x-csrf-token"] == "other":
            headers["x-csrf-token"] = tokens["rater"]
        answer = admin.post(path.format(**everything.places), headers=headers, **everything.body(path))
        assert answer.status_code == 403, path
        assert answer.json()["kind"] == ("csrf" if "token" in way else "forbidden")
    assert contents(everything.house.accounts.engine) == before


@pytest.mark.parametrize("path", ["/login", "/invitation/{secret}"])
def test_a_form_shown_to_nobody_has_a_token_too(everything: World, path: str) -> None:
    """Login CSRF: nobody is signed in, under another's name, by a form of another site."""
    mine, other = everything.house.browser(), everything.house.browser()
    place = path.format(**everything.places)
    cookies = everything.house.entrance.cookies
    other.get("/login")
    theirs = cookies.token_of(other.cookies[cookies.form])
    mine.get("/login")
    for token in ("", theirs):
        assert mine.post(place, {"csrf": token, "login": "admin"}).status_code == 403
    assert everything.house.browser().post(place, {"csrf": theirs}).status_code == 403


def test_a_token_in_the_form_is_as_good_as_one_in_the_header(everything: World) -> None:
    admin, token = everything.browsers["admin"], everything.token("admin")
    assert admin.post("/account/sessions", {"csrf": token}).status_code == 200
    assert admin.post("/account/sessions", headers={"x-csrf-token": token}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_other_methods_are_changes_too(everything: World, method: str) -> None:
    assert everything.browsers["admin"].ask(method, "/account", headers=JSON).status_code == 403


# Hosts.


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:9999", "", "localhost.evil.example:8400"])
def test_a_name_that_is_not_ours_is_refused(house: Service, host: str) -> None:
    """DNS rebinding: a site of an attacker whose name suddenly points to this machine."""
    answer = house.browser().get("/login", headers={"host": host})
    assert answer.status_code == 421
    assert "evil" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "localhost:8400", "[::1]:8400", "LOCALHOST:8400"])
def test_our_names_are_taken(house: Service, host: str) -> None:
    assert house.browser().get("/login", headers={"host": host}).status_code == 200


def test_what_watches_the_service_may_call_it_anything(house: Service) -> None:
    for path in ("/health", "/ready"):
        assert house.browser().get(path, headers={"host": "10.1.2.3:80"}).status_code == 200


def test_a_public_service_is_called_by_its_public_name_alone(engine: Engine) -> None:
    settings = FeedbackService(
        listen="0.0.0.0:8400",
        public_url="https://ratings.example.org",
        trusted_proxies=("192.0.2.1",),
        secret="0123456789abcdef" * 4,
    )
    browser = service(engine, settings).browser(origin="https://ratings.example.org")
    assert browser.get("/login").status_code == 200
    assert browser.get("/login", headers={"host": "ratings.example.org:443"}).status_code == 200
    assert browser.get("/login", headers={"host": "127.0.0.1:8400"}).status_code == 421


# Bodies.


def small_service(engine: Engine, body_s: float) -> Service:
    """A service that takes bodies of 100 kB within some seconds, and tells their length."""
    router = APIRouter()

    @router.post("/login/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    settings = FeedbackService(limits=Limits(body_kb=100, body_s=body_s))
    return service(engine, settings, routers=lambda accounts: [router], elsewhere=("/login/echo",))


@pytest.fixture
def small(engine: Engine) -> Service:
    return small_service(engine, HANG_S)


def sent(house: Service, content: bytes | AsyncIterator[bytes], kind: str = "application/json") -> int:
    return house.browser().post("/login/echo", content=content, headers={"content-type": kind, **JSON}).status_code


def test_a_body_may_be_as_large_as_said_and_no_larger(small: Service) -> None:
    quoted = b'"' + b"x" * 99_998 + b'"'
    assert sent(small, quoted) == 200
    assert sent(small, quoted + b" ") == 413


def test_a_body_without_a_length_is_cut_while_it_comes(small: Service) -> None:
    pieces = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pieces
        while True:
            pieces += 1
            yield b" " * 10_000

    assert sent(small, endless()) == 413
    assert pieces <= 12, "not read to its end, which there is none of"


def test_a_body_that_does_not_come_is_not_waited_for(engine: Engine) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(HANG_S)
        yield b"}"

    assert sent(small_service(engine, 0.2), slow()) == 408


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(b"[" * 32 + b"]" * 32, 200, id="32 deep"),
        pytest.param(b"[" * 33 + b"]" * 33, 400, id="33 deep"),
        pytest.param(b'{"a":' * 50_000, 413, id="a bomb that is too long as well"),
        pytest.param(b"[" * 90_000, 400, id="90,000 deep"),
        pytest.param(b"[]," * 20_000, 400, id="20,000 small ones"),
        pytest.param(json.dumps("[" * 90_000).encode(), 200, id="brackets in a text"),
        pytest.param(b'"' + b'\\"' * 40_000, 200, id="a text that does not end"),
    ],
)
def test_json_is_neither_deep_nor_in_countless_parts(small: Service, content: bytes, status: int) -> None:
    assert sent(small, content) == status


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", "text/xml", ""])
def test_other_content_is_not_taken(small: Service, kind: str) -> None:
    assert sent(small, b"x", kind) == 415


def test_a_form_has_few_fields(small: Service) -> None:
    kind = "application/x-www-form-urlencoded"
    assert sent(small, b"&".join([b"a=1"] * 200), kind) == 200
    assert sent(small, b"&".join([b"a=1"] * 201), kind) == 400
    assert sent(small, b"a=%ff%fe", kind) == 400


def test_nobody_gets_a_large_body_in_without_signing_in(house: Service) -> None:
    browser = house.browser()
    assert browser.post("/login", {"login": "x" * 70_000}).status_code == 413


# Answers.


def test_a_fault_of_ours_tells_nothing_to_the_page_and_all_to_the_log(engine: Engine) -> None:
    router = APIRouter()

    @router.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("the secret is 42")

    house = service(engine, routers=lambda accounts: [router])
    for kind in ("text/html", "application/json"):
        answer = house.browser().get("/broken", headers={"accept": kind})
        assert answer.status_code == 500
        assert "42" not in answer.text
        assert "ZeroDivision" not in answer.text
        assert HEADERS.keys() <= answer.headers.keys()
    assert "the secret is 42" in house.told[0]


def test_files_of_pages_carry_the_same_headers_and_are_kept(house: Service) -> None:
    browser = house.browser()
    for method, length in (("GET", len(static_files()["page.css"][0])), ("HEAD", 0)):
        answer = browser.ask(method, static_path("page.css"), headers={})
        kept = {"cache-control": "public, max-age=31536000, immutable"}
        assert {name: answer.headers[name] for name in HEADERS} == {**HEADERS, **kept}
        assert (answer.status_code, len(answer.content)) == (200, length)
    assert browser.ask("POST", static_path("page.css"), headers={}).status_code == 401, "a change asks for a session"


ECHOES = ["/nothing/<script>alert(1)</script>", "/login?next=<script>alert(1)</script>", "/invitation/<script>"]


@pytest.mark.parametrize("path", ECHOES)
def test_no_error_repeats_what_was_asked(house: Service, path: str) -> None:
    for kind in ("text/html", "application/json"):
        answer = house.browser().get(path, headers={"accept": kind})
        assert "<script>" not in answer.text
        assert "alert" not in answer.text or "&lt;script&gt;" in answer.text


def test_names_are_text_wherever_they_are_shown(house: Service) -> None:
    evil = "<img src=x onerror=alert(1)>"
    rater = house.person()
    with house.accounts.engine.begin() as connection:
        connection.execute(metadata().tables["people"].update().values(name=evil, login=evil))
    admin = house.signed_in(house.person("admin"))
    for browser, path in ((admin, "/people"), (house.signed_in(rater), "/account")):
        page = browser.get(path).text
        assert evil not in page
        assert "&lt;img" in page


def test_where_the_database_is_away_it_says_so_and_no_more(house: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops.errors import EnvironmentFault

    def away(secret: str) -> None:
        raise EnvironmentFault("the database /home/somebody/llmops.db cannot be used", fix="check it")

    browser = house.signed_in(house.person())
    monkeypatch.setattr(house.entrance.sessions, "visitor", away)
    answer = browser.get("/account", headers=JSON)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "/home" not in answer.text


def test_not_ready_is_told_as_a_status(engine: Engine) -> None:
    from llmops.errors import EnvironmentFault

    def away() -> None:
        raise EnvironmentFault("no", fix="yes")

    house = service(engine, ready=away)
    assert house.browser().get("/ready").status_code == 503
    assert house.browser().get("/health").status_code == 200


# Other sites.


def test_what_is_open_to_other_sites_sees_no_session(engine: Engine) -> None:
    router = APIRouter()

    @router.post("/widget/thumb")
    def thumb(request: Request) -> dict[str, bool]:
        return {"known": request.state.visitor is not None}

    house = service(engine, routers=lambda accounts: [router], elsewhere=("/widget/",))
    browser = house.signed_in(house.person("admin"))
    answer = browser.post("/widget/thumb", json={}, headers={"origin": "https://shop.example", **JSON})
    assert answer.json() == {"known": False}
    assert browser.post("/account/sessions", headers={"origin": "https://shop.example", **JSON}).status_code == 403


def test_addresses_are_those_that_trusted_proxies_say(engine: Engine) -> None:
    router = APIRouter()

    @router.get("/whence")
    def whence(request: Request) -> dict[str, str]:
        return {"address": request.state.address}

    def seen(peer: str, forwarded: str) -> str:
        browser = Browser(house.app, origin="https://r.example.org", address=peer)
        return str(browser.get("/whence", headers={"x-forwarded-for": forwarded}).json()["address"])

    settings = FeedbackService(
        public_url="https://r.example.org", trusted_proxies=("10.0.0.0/8",), secret="0123456789abcdef" * 4
    )
    house = service(engine, settings, routers=lambda accounts: [router])
    assert seen("203.0.113.9", "1.2.3.4") == "203.0.113.9", "who is no proxy says nothing of others"
    assert seen("10.0.0.1", "198.51.100.7") == "198.51.100.7"
    assert seen("10.0.0.1", "1.2.3.4, 198.51.100.7, 10.0.0.2") == "198.51.100.7", "what a client wrote itself is left"
    assert seen("10.0.0.1", "") == "10.0.0.1"


# Many at once.


def test_a_rating_is_taken_while_everybody_else_waits_for_something_to_do(
    everything: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask: who they are is looked up, and ratings are stored, in threads that those never take."""
    given, asked = threading.Event(), threading.Semaphore(0)

    def slow(desk: Desk, campaign: str, rater: str) -> NoTask:
        asked.release()
        given.wait(20)
        return NoTask("finished")

    monkeypatch.setattr(Desk, "next", slow)
    rater = everything.browsers["rater"]
    token = {**JSON, "x-csrf-token": everything.token("rater")}
    path = f"/api/campaigns/{everything.places['campaign']}/next"
    rating = everything.body("/api/ratings")

    async def crowd() -> list[int]:
        waiting = [asyncio.create_task(rater.asked("POST", path, headers=token)) for _ in range(60)]
        await asyncio.to_thread(lambda: [asked.acquire(timeout=20) for _ in range(40)])
        try:
            async with asyncio.timeout(10):
                stored = await rater.asked("POST", "/api/ratings", headers=token, **rating)
        finally:
            given.set()
        return [stored.status_code, *(one.status_code for one in await asyncio.gather(*waiting))]

    assert asyncio.run(crowd()) == [200] * 61
