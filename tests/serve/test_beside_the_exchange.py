"""What stands around a request: who may ask, the line, memory, copies, cascades, shared time, reloads; one row each."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmops.serve.targets import Target
from tests.patience import wait_until
from tests.serve import fake_engine as fake
from tests.serve.clients import ASK, WORDS, data, entries, error, post
from tests.serve.fake_engine import LAST, STREAM, Go, chunk, event, holding, plain, saying, speaking, too_long
from tests.serve.gateways import Strict, running, settings


def test_who_may_not_ask_is_told_so_and_all_is_settled_once() -> None:
    keeper = Strict()
    routes = {name: {"policy": "direct", "engine": "small"} for name in ("m", "secret")}
    with running({"small": [speaking()]}, settings(routes), gatekeeper=keeper) as gateway:
        assert (post(gateway.url)[0], post(gateway.url, authorization="Bearer bad")[0]) == (401, 401)
        assert post(gateway.url, authorization="Bearer good")[0] == post(gateway.url, x_api_key="good")[0] == 200
        assert post(gateway.url, {**ASK, "model": "secret"}, authorization="Bearer good")[0] == 403
        entries(gateway, 5)
        assert keeper.settled == [(9, None), (9, None)]
        keeper.left = False
        status, headers, raw = post(gateway.url, authorization="Bearer good")
        assert (status, headers["retry-after"], error(raw)["type"]) == (429, "13", "rate_limit_error")
        assert [one.tags for one in entries(gateway, 6) if one.status == 200] == [("team-a",)] * 2


def test_requests_wait_in_line_and_no_longer_than_they_may() -> None:
    go = Go()
    routes: Any = {"m": {"policy": "direct", "engine": "small", "queue": 1, "queue_s": 60}}
    limits = {"in_flight": 1}
    with (
        ThreadPoolExecutor() as pool,
        running({"small": [holding(go, then=speaking())]}, settings(routes, limits=limits)) as gateway,
    ):
        (engine,) = gateway.engines["small"]
        first = pool.submit(post, gateway.url)
        wait_until(lambda: engine.under_way == 1)
        second = pool.submit(post, gateway.url)
        wait_until(lambda: gateway.app.core.dispatch.waiting() == {"small": 1})
        status, headers, _ = post(gateway.url)
        assert (status, headers["retry-after"]) == (429, "1")
        go.set()
        assert [first.result()[0], second.result()[0]] == [200, 200]
        assert len(engine.asked) == 2

        go.clear()
        routes["m"]["queue_s"] = 0.05
        gateway.loop.call_soon_threadsafe(gateway.app.reload, settings(routes, limits=limits))
        first = pool.submit(post, gateway.url)
        wait_until(lambda: engine.under_way == 1)
        status, headers, _ = post(gateway.url)
        assert (status, headers["retry-after"]) == (503, "1")
        go.set()
        assert first.result()[0] == 200


def test_the_same_at_temperature_0_is_answered_from_memory() -> None:
    routes = {"m": {"policy": "direct", "engine": "small", "cache": {}}}
    with running({"small": [speaking()]}, settings(routes)) as gateway:
        engine = gateway.engines["small"][0]
        for streamed in (False, True):
            ask = {**ASK, "temperature": 0, "stream": streamed}
            first, again = post(gateway.url, ask), post(gateway.url, dict(reversed(ask.items())))
            assert first[2] == again[2]
            assert (first[1]["x-llmops-cache"], again[1]["x-llmops-cache"]) == (None, "hit")
            assert first[1]["content-type"] == again[1]["content-type"]
        assert len(engine.asked) == 2
        for other in ({**ASK, "temperature": 0.5}, ASK, {**ASK, "temperature": 0, "seed": 1}):
            post(gateway.url, other)
        assert len(engine.asked) == 5
        hits = [
            (one.from_cache, one.prompt_tokens, one.engine, one.usd) for one in gateway.notes.entries if one.from_cache
        ]
        assert hits == [(True, 7, "small", 0.0)] * 2
        gateway.targets.set("small", [Target(gateway.targets.of("small")[0].replica, "served-small", "small/2")])
        assert post(gateway.url, {**ASK, "temperature": 0})[1]["x-llmops-version"] == "small/2"


def test_a_share_of_prompts_and_answers_is_handed_over() -> None:
    routes = {"m": {"policy": "direct", "engine": "small", "capture": {"share": 1, "redact": False}}}
    with running({"small": [speaking()]}, settings(routes)) as gateway:
        _, headers, raw = post(gateway.url)
        post(gateway.url, {**ASK, "stream": True})
        entries(gateway, 2)
        (first, redact), (second, _) = gateway.notes.captured
        assert (first.id, first.probability, first.answer, redact) == (headers["x-request-id"], 1.0, raw, False)
        assert json.loads(first.request) == ASK
        assert data(second.answer)[-1] == b"[DONE]"
        assert first.until - time.time() == pytest.approx(30 * 86_400, abs=60)


def test_shadow_copies_are_rows_of_their_own_and_never_more_than_may_be() -> None:
    routes = {
        "m": {
            "policy": "direct",
            "engine": "small",
            "shadow": {"to": "large", "share": 1, "at_once": 1},
            "capture": {"share": 0},
        }
    }
    go = Go()
    engines = {"small": [speaking()], "large": [holding(go, then=speaking(["no"]))]}
    with running(engines, settings(routes)) as gateway:
        first = post(gateway.url, {**ASK, "stream": True})
        wait_until(lambda: gateway.engines["large"][0].under_way)
        post(gateway.url)
        entries(gateway, 2)
        go.set()
        (copy,) = [one for one in entries(gateway, 3) if one.shadow_of]
        assert (copy.shadow_of, copy.engine, copy.status) == (first[1]["x-request-id"], "large", 200)
        assert b'"no"' not in first[2]
        asked = gateway.engines["large"][0].asked
        assert len(asked) == 1
        assert asked[0].body == {**ASK, "stream": False, "model": "served-large"}
        assert gateway.app.core.counts["shadow_left_out", "m"] == 1
        assert {one.id for one, _ in gateway.notes.captured} >= {first[1]["x-request-id"], copy.id}


class Doubtful:
    """An engine whose tokens have the log-probability it is told."""

    def __init__(self, logprob: float) -> None:
        self.logprob = logprob

    async def __call__(self, request: fake.Request, out: Any) -> None:
        made = fake.answer(request.body, "small says")
        for token in (made["choices"][0]["logprobs"] or {"content": []})["content"]:
            token["logprob"] = self.logprob
        out.write(plain(200, made))


CASCADE = {"m": {"policy": "cascade", "small": "small", "large": "large"}}


def test_a_cascade_goes_on_to_the_large_one_where_the_small_one_is_not_sure() -> None:
    small = Doubtful(-0.1)
    with running({"small": [small], "large": [speaking(["large says"])]}, settings(CASCADE)) as gateway:
        _, headers, raw = post(gateway.url)
        assert (headers["x-llmops-engine"], b"small says" in raw) == ("small", True)
        assert json.loads(raw)["choices"][0]["logprobs"] is None
        _, _, raw = post(gateway.url, {**ASK, "logprobs": True})
        assert json.loads(raw)["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.1
        small.logprob = -3.0
        _, headers, raw = post(gateway.url)
        assert (headers["x-llmops-engine"], b"large says" in raw) == ("large", True)
        assert [one.escalated for one in entries(gateway, 3)] == [False, False, True]
        assert [one.body.get("logprobs") for one in gateway.engines["small"][0].asked] == [True] * 3
        assert "logprobs" not in gateway.engines["large"][0].asked[0].body


def test_a_cascade_goes_on_to_the_large_model_with_what_is_too_long_for_the_small_one() -> None:
    with running({"small": [saying(too_long())], "large": [speaking(["large says"])]}, settings(CASCADE)) as gateway:
        status, headers, _ = post(gateway.url)
        assert (status, headers["x-llmops-engine"]) == (200, "large")
        (entry,) = entries(gateway)
        assert (entry.escalated, entry.fallback) == (True, False)
    with running({"small": [saying(too_long())], "large": [saying(too_long())]}, settings(CASCADE)) as gateway:
        status, _, raw = post(gateway.url)
        assert (status, error(raw)["code"]) == (400, "context_length_exceeded")


def test_a_cascade_answers_with_whoever_is_there() -> None:
    with running({"small": [Doubtful(-3)], "large": []}, settings(CASCADE)) as gateway:
        status, headers, raw = post(gateway.url)
        assert (status, b"small says" in raw, headers["x-llmops-fallback"]) == (200, True, "true")
    with running({"small": [], "large": [speaking()]}, settings(CASCADE)) as gateway:
        status, headers, _ = post(gateway.url)
        assert (status, headers["x-llmops-engine"], headers["x-llmops-fallback"]) == (200, "large", "true")


def test_the_engines_time_is_shared_among_those_who_use_it() -> None:
    go = Go()
    with (
        ThreadPoolExecutor() as pool,
        running({"small": [holding(go, then=speaking())]}) as gateway,
    ):
        (one,) = gateway.targets.of("small")
        one.replica.usd_per_hour = 3600.0
        began = time.monotonic()
        asked = [pool.submit(post, gateway.url) for _ in range(2)]
        wait_until(lambda: gateway.engines["small"][0].under_way == 2)
        both = time.monotonic()
        time.sleep(0.4)
        shared = time.monotonic() - both
        go.set()
        assert [each.result()[0] for each in asked] == [200, 200]
        costs = [entry.usd for entry in entries(gateway, 2)]
        # At one dollar a second, both together cost the time in which there was something to do, and each half of
        # that in which both were there.
        assert shared <= sum(costs) <= time.monotonic() - began
        assert min(costs) >= shared / 2


def test_a_recorder_that_fails_stops_no_request(caplog: pytest.LogCaptureFixture) -> None:
    with running({"small": [speaking()]}) as gateway:

        def full(entry: Any) -> None:
            raise OSError("no space left on device")

        gateway.notes.record = full  # type: ignore[method-assign]
        assert post(gateway.url)[0] == 200
        wait_until(lambda: gateway.notes.observed)
        assert "could not be written down" in caplog.text


def test_a_reload_is_seen_by_new_requests_only() -> None:
    go = Go()
    rest = saying(*(chunk(event(one)) for one in WORDS[1:]), chunk(event(b"[DONE]")) + LAST)
    small = holding(go, begun=STREAM + chunk(event(WORDS[0])), then=rest)
    with ThreadPoolExecutor() as pool, running({"small": [small], "large": [speaking()]}) as gateway:
        before = pool.submit(post, gateway.url, {**ASK, "stream": True})
        wait_until(lambda: gateway.engines["small"][0].under_way)
        gateway.loop.call_soon_threadsafe(gateway.app.reload, settings({"n": {"policy": "direct", "engine": "large"}}))
        assert post(gateway.url)[0] == 404
        assert post(gateway.url, {**ASK, "model": "n"})[1]["x-llmops-engine"] == "large"
        go.set()
        status, _, raw = before.result()
        assert (status, data(raw)[-1]) == (200, b"[DONE]")


@pytest.mark.parametrize("streamed", [False, True])
def test_connections_to_engines_are_used_again(streamed: bool) -> None:
    with running({"small": [speaking()]}) as gateway:
        (engine,) = gateway.engines["small"]
        for number in range(5):
            assert post(gateway.url, {**ASK, "stream": streamed})[0] == 200
            entries(gateway, number + 1)
            # What follows a stream's last event is read when its client has all.
            wait_until(lambda: not engine.under_way and not gateway.app.core.tasks)
        assert engine.connections == 1


def test_one_replica_alone_costs_no_retry() -> None:
    with running({"small": [saying(plain(500, {}))]}) as gateway:
        assert post(gateway.url)[0] == 502
        assert entries(gateway)[0].retries == 0
        assert not gateway.app.core.counts["retry_refused", "m"]
