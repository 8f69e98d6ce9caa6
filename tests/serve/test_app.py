"""Beside models the gateway says what there is, whether it is well, and takes what people think of its answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llmops.serve.app import App
from llmops.serve.hooks import Feedback
from llmops.serve.refusal import Refusal
from llmops.serve.targets import State, Targets
from tests.serve.gateways import Called, Notebook, Plainly, Strict, app_of, call, settings, target


def application(notes: Notebook | None = None, *, state: State = "ready", strict: bool = False, **limits: Any) -> App:
    targets = Targets()
    one = target("small", "http://127.0.0.1:1")
    one.replica.state = state
    targets.set("small", [one])
    routes = {name: {"policy": "direct", "engine": "small"} for name in ("m", "team/secret", "secret")}
    routes["l"] = {"policy": "direct", "engine": "large"}
    file = settings(routes, limits=limits)
    return app_of(file, targets, notes or Notebook(), gatekeeper=Strict() if strict else None, policy=Plainly())


def get(app: App, path: str, **headers: str) -> Called:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    return asyncio.run(call(app, path, method="GET", headers=sent))


def give(app: App, body: Any, **headers: str) -> Called:
    sent = [(b"content-type", b"application/json"), *((name.encode(), one.encode()) for name, one in headers.items())]
    return asyncio.run(call(app, "/v1/feedback", json.dumps(body).encode(), headers=sent))


def test_models_are_the_routes_a_key_may_ask() -> None:
    app = application(strict=True)
    said = json.loads(get(app, "/v1/models", authorization="Bearer good").body)
    assert [one["id"] for one in said["data"]] == ["m", "team/secret", "l"]
    assert get(app, "/v1/models").status == 401
    assert json.loads(get(app, "/v1/models/team/secret", authorization="Bearer good").body)["object"] == "model"
    unknown = get(app, "/v1/models/secret", authorization="Bearer good")
    assert (unknown.status, json.loads(unknown.body)["error"]["code"]) == (404, "model_not_found")
    # Who may not ask does not learn what there is.
    assert get(app, "/v1/models/nothing").status == get(app, "/v1/models/m").status == 401


@pytest.mark.parametrize(("state", "status"), [("ready", 200), ("starting", 503), ("failed", 503)])
def test_it_is_ready_when_a_model_can_be_asked_and_alive_before(state: State, status: int) -> None:
    app = application(state=state)
    said = get(app, "/ready")
    assert (said.status, json.loads(said.body)["routes"]["m"]) == (status, status == 200)
    assert json.loads(said.body)["routes"]["l"] is False
    assert get(app, "/health").status == 200


def test_it_is_not_ready_when_it_is_about_to_stop() -> None:
    app = application()
    app.core.running.draining = True
    assert json.loads(get(app, "/ready").body)["status"] == "draining"
    assert get(app, "/health").status == 200


def test_metrics_are_those_of_the_metrics() -> None:
    said = get(application(), "/metrics")
    assert (said.body, said.headers["content-type"]) == (b"under_way 0\n", "text/plain; version=0.0.4; charset=utf-8")


def test_what_runs_now_is_told_by_replica() -> None:
    async def run() -> Any:
        return application().core.now()

    (one,) = asyncio.run(run()).replicas
    assert (one.engine, one.state, one.in_flight, one.breaker) == ("small", "ready", 0, "closed")


def test_feedback_is_handed_to_the_recorder() -> None:
    notes = Notebook()
    app = application(notes)
    body = {"request_id": "req_1", "thumbs": "down", "score": 0.5, "comment": "wrong", "correction": "Tokyo"}
    assert give(app, body).status == 202
    (given,) = notes.given
    assert (given.request, given.thumbs, given.score, given.comment, given.correction) == tuple(body.values())
    assert (give(app, {"request_id": "req_1", "score": 3}).status, notes.given[1].score) == (202, 3.0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"request_id": "r"},
        {"request_id": "", "thumbs": "up"},
        {"request_id": "r", "thumbs": "sideways"},
        {"request_id": "r", "score": "5"},
        {"request_id": "r", "score": True},
        {"request_id": "r", "thumbs": None},
        {"request_id": "r", "comment": "x" * 100_001},
        {"request_id": "r", "thumbs": "up", "other": 1},
    ],
)
def test_feedback_that_says_nothing_is_refused(body: Any) -> None:
    notes = Notebook()
    said = give(application(notes), body)
    assert said.status == 400
    assert set(json.loads(said.body)["error"]) == {"message", "type", "param", "code"}
    assert not notes.given


def test_feedback_has_the_limits_of_all_requests() -> None:
    assert give(application(body_mb=0.001), {"request_id": "r", "comment": "x" * 2000}).status == 413
    assert give(application(strict=True), {"request_id": "r", "thumbs": "up"}).status == 401

    class Knows(Notebook):
        def feedback(self, given: Feedback) -> None:
            raise Refusal(404, "there is no such request", code="request_not_found")

    assert give(application(Knows()), {"request_id": "r", "thumbs": "up"}).status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/chat/completions", 404), ("GET", "/", 404), ("PUT", "/health", 405)]
)
def test_what_is_not_there_is_an_error_body_too(method: str, path: str, status: int) -> None:
    said = asyncio.run(call(application(), path, method=method))
    assert said.status == status
    assert set(json.loads(said.body)["error"]) == {"message", "type", "param", "code"}
