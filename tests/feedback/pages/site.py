"""The rating page on a port of its own, over a desk in memory: no database, no login, every fault on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from llmops.feedback.faults import Conflict, NotThere, RubricChanged
from llmops.feedback.pages import Offered, Visitor
from llmops.feedback.rating_pages import rating_routes
from llmops.feedback.static import Static
from llmops.feedback.tasks import NoTask, Progress, Stored, Task
from llmops.feedback.verdicts import Given
from llmops.rubric import Rubric
from tests.local_server import free_port
from tests.prompt_server import Prompt

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; report-uri /csp-reports"
)
CSRF = "token-of-this-session"
ELSEWHERE = b"<!doctype html><title>Welcome</title><p>Log in to this network."


@dataclass
class FakeDesk:
    """One rater's tasks in order; a rating is stored once for each id.

    Attributes:
        waiting: why there is no task once they are all rated.
        arrivals: ids as they arrived, repeats too.
        rubric: by which ratings are taken, where it is another one than the tasks'.
    """

    tasks: list[Task] = field(default_factory=list)
    waiting: NoTask = field(default_factory=lambda: NoTask("finished"))
    ratings: dict[str, Given] = field(default_factory=dict)
    arrivals: list[str] = field(default_factory=list)
    rubric: Rubric | None = None
    expected: dict[str, Any] = field(default_factory=dict)
    extended: list[str] = field(default_factory=list)
    released: set[str] = field(default_factory=set)
    accepted_old: list[str] = field(default_factory=list)

    def _open(self) -> list[Task]:
        rated = {given.assignment for given in self.ratings.values()} | self.released
        return [task for task in self.tasks if task.assignment not in rated]

    def _nth(self, place: int) -> Task | NoTask:
        found = self._open()
        return self._seen(found[place]) if len(found) > place else self.waiting

    def _seen(self, task: Task) -> Task:
        rubric = self.rubric or task.rubric
        mine = self.standing(task.assignment)
        given = {"id": mine.id, **mine.content()} if mine else None
        return replace(task, rubric=rubric, until=time.time() + 1800, given=given)

    def next(self, campaign: str, rater: str) -> Task | NoTask:
        return self._nth(0)

    def ahead(self, campaign: str, rater: str) -> Task | NoTask:
        return self._nth(1)

    def task(self, assignment: str, rater: str) -> Task:
        for task in self.tasks:
            if task.assignment == assignment:
                return self._seen(task)
        raise NotThere("you have no such task", fix="ask for the next one")

    def previous(self, campaign: str, rater: str, before: str | None = None) -> Task | None:
        rated = [task for task in self.tasks if self.standing(task.assignment)]
        names = [task.assignment for task in self.tasks]
        if before is not None:
            rated = [task for task in rated if names.index(task.assignment) < names.index(before)]
        return self._seen(rated[-1]) if rated else None

    def extend(self, assignment: str, rater: str) -> float:
        self.extended.append(assignment)
        return time.time() + 1800

    def release(self, assignment: str, rater: str) -> None:
        self.released.add(assignment)

    def submit(self, given: Given, rater: str, *, accept_old: bool = False) -> Stored:
        self.arrivals.append(given.id)
        if given.id in self.ratings:
            return Stored(given.id, True, False, self.expected.get(given.assignment))
        task = next(task for task in self.tasks if task.assignment == given.assignment)
        if self.rubric and given.rubric != self.rubric.digest and not accept_old:
            raise RubricChanged(task.rubric, self.rubric)
        if accept_old:
            self.accepted_old.append(given.id)
        standing = self.standing(given.assignment)
        if (standing.id if standing else None) != given.supersedes:
            raise Conflict(
                "this task has another rating", fix="load it again", newest=standing.id if standing else None
            )
        self.ratings[given.id] = given
        return Stored(given.id, False, False, self.expected.get(given.assignment))

    def standing(self, assignment: str) -> Given | None:
        """The rating of an assignment that no other replaces."""
        mine = [one for one in self.ratings.values() if one.assignment == assignment]
        replaced = {one.supersedes for one in mine}
        return next((one for one in mine if one.id not in replaced), None)

    def progress(self, campaign: str, rater: str) -> Progress:
        mine = len({one.assignment for one in self.ratings.values() if one.verdict})
        return Progress(3 * len(self.tasks), mine, mine, (4, 5), 21.4 if mine else None)


class Site:
    """A server that can be killed and started again on its port, lose its session, or answer nothing.

    Attributes:
        logged_in: False answers 401 and sends pages to the login.
        answering: False makes it answer 503, as behind a proxy whose service is away.
        taking: False answers 503 to ratings alone, as a server that comes back just after they were tried.
        swallowing: the next so many ratings are stored, and their answers lost.
        breaking: paths whose next answer, by what is to come of it, breaks off in the middle ("body"), as where the
            server is killed just then, or is a page of somebody else ("page").
        reports: what browsers reported against the page's policy.
    """

    def __init__(self, desk: Any, offered: Sequence[Offered] = ()) -> None:
        self.desk, self.offered = desk, offered
        self.logged_in, self.answering, self.taking, self.swallowing = True, True, True, 0
        self.breaking: dict[str, str] = {}
        self.csrf = CSRF
        self.name = "rater"
        self.reports: list[str] = []
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.app = self._app()

    def _app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None)

        def who(request: Request) -> Visitor | None:
            return Visitor("rater-1", self.name, self.csrf) if self.logged_in else None

        static: Any = Static
        app.add_middleware(static, headers={})

        @app.middleware("http")
        async def guarded(request: Request, go_on: Any) -> Response:
            if request.url.path == "/csp-reports":
                self.reports.append((await request.body()).decode())
                return Response(status_code=204)
            if not self.answering or (request.url.path == "/api/ratings" and not self.taking):
                return Response(status_code=503)
            token = request.headers.get("x-csrf-token")
            if (
                request.method == "POST"
                and request.url.path.startswith("/api")
                and self.logged_in
                and token != self.csrf
            ):
                return JSONResponse({"error": "no", "fix": "load the page again", "kind": "csrf"}, 403)
            answer: Response = await go_on(request)
            if request.url.path == "/api/ratings" and answer.status_code == 200 and self.swallowing:
                self.swallowing -= 1
                return Response(status_code=502)
            answer.headers["content-security-policy"] = POLICY
            return answer

        @app.get("/login")
        def login(next: str) -> HTMLResponse:  # noqa: A002
            self.logged_in, self.csrf = True, f"{CSRF}-2"
            return HTMLResponse(f'<!doctype html><title>in</title><a id="on" href="{next}">on</a>')

        breaks: Any = Breaks
        app.add_middleware(breaks, breaking=self.breaking)
        app.include_router(rating_routes(self.desk, who, lambda rater: self.offered))
        return app

    def start(self) -> None:
        config = uvicorn.Config(
            self.app, port=self.port, log_level="error", timeout_graceful_shutdown=1, ws="none", lifespan="off"
        )
        self._server = Prompt(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def kill(self) -> None:
        """Close all connections at once, and answer no more."""
        self._server.force_exit = self._server.should_exit = True
        self._thread.join()


class Breaks:
    """ASGI middleware that breaks answers as `Site.breaking` says, each once."""

    def __init__(self, app: Any, *, breaking: dict[str, str]) -> None:
        self._app, self._breaking = app, breaking

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        how = self._breaking.pop(scope["path"], None) if scope["type"] == "http" else None
        if how is None:
            await self._app(scope, receive, send)
            return

        async def broken(message: Any) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            else:  # less than the length that the head told: the connection is closed
                await send({**message, "body": message["body"][: len(message["body"]) // 2], "more_body": True})
                raise ConnectionResetError

        async def page(message: Any) -> None:
            if message["type"] == "http.response.start":
                head = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(ELSEWHERE))]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": ELSEWHERE})

        with contextlib.suppress(ConnectionResetError):
            await self._app(scope, receive, broken if how == "body" else page)


@contextlib.contextmanager
def running(site: Site) -> Iterator[Site]:
    site.start()
    try:
        yield site
    finally:
        site.kill()
