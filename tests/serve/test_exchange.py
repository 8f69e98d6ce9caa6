"""Whatever engines do, a client gets an answer, an error body or an error in the stream, and the ledger one row."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from llmops.serve.targets import Replica, Target
from tests.patience import once_in_three, wait_until
from tests.serve import fake_engine as fake
from tests.serve.clients import ASK, WORDS, data, entries, entry_of, error, post, stream
from tests.serve.fake_engine import (
    LAST,
    STREAM,
    TOO_LONG,
    Behaviour,
    chunk,
    event,
    once,
    plain,
    saying,
    speaking,
    too_long,
)
from tests.serve.gateways import Running, running, settings


@pytest.fixture(scope="module")
def good() -> Any:
    with running({"small": [speaking()]}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**ASK, "seed": 2**60, "stop": ["x"], "n": 2, "response_format": {"type": "text"}}),
        ("/v1/completions", {"model": "m", "prompt": ["a", "b"]}),
        ("/v1/embeddings", {"model": "m", "input": "a"}),
        ("/v1/responses", {"model": "m", "input": "a"}),
        ("/v1/messages", {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5}),
    ],
)
def test_the_engine_gets_what_was_asked_byte_for_byte(good: Running, path: str, body: dict[str, Any]) -> None:
    status, headers, raw = post(good.url, body, path)
    asked = good.engines["small"][0].asked[-1]
    assert status == 200
    assert (asked.path, asked.raw) == (
        path,
        json.dumps(body).encode().replace(b'"model": "m"', b'"model":"served-small"'),
    )
    assert json.loads(raw)["model"] == "m"
    entry = entry_of(good, headers)
    assert asked.headers["x-request-id"] == entry.id
    assert (entry.endpoint, entry.route, entry.status, entry.version) == (path, "m", 200, "small/1")
    assert (headers["x-llmops-engine"], headers["x-llmops-version"]) == ("small", "small/1")
    assert headers["x-llmops-route"] == entry.reason == "the only one"
    assert entry.prompt_tokens == (3 if path == "/v1/embeddings" else 7)
    assert 0 < entry.first_token <= entry.total


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "param"),
    [
        (b"{", {}, 400, "invalid_json", None),
        (b"[]", {}, 400, "invalid_json", None),
        (b'"\\ud800"', {}, 400, "invalid_json", None),
        (b'{"model": 3}', {}, 400, None, "model"),
        ({"model": "m"}, {}, 400, "missing_required_parameter", "messages"),
        ({"model": "m", "messages": []}, {}, 400, None, "messages"),
        ({**ASK, "stream": "yes"}, {}, 400, None, "stream"),
        ({**ASK, "n": 0}, {}, 400, None, "n"),
        ({**ASK, "stream_options": {"include_usage": True}}, {}, 400, None, "stream_options"),
        ({**ASK, "model": "other"}, {}, 404, "model_not_found", "model"),
        (ASK, {"content_type": "text/plain"}, 400, "unsupported_content_type", None),
        (ASK, {"content_encoding": "gzip"}, 400, "unsupported_content_encoding", None),
        (b" " * 10_000_001, {}, 413, "body_too_large", None),
        (ASK, {"x_long": "x" * 33_000}, 431, None, None),
    ],
)
def test_what_cannot_be_passed_on_is_refused(
    good: Running, body: Any, headers: dict[str, str], status: int, code: str | None, param: str | None
) -> None:
    asked = len(good.engines["small"][0].asked)
    got, answered, raw = post(good.url, body, **headers)
    assert got == status
    assert (error(raw)["code"], error(raw)["param"]) == (code, param)
    assert answered["x-request-id"]
    assert len(good.engines["small"][0].asked) == asked


@pytest.mark.parametrize("asked", [False, True])
def test_usage_is_asked_of_every_stream(good: Running, asked: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {"stream_options": {"include_usage": False}}
    _, headers, raw = post(good.url, {**ASK, "stream": True, **options})
    assert good.engines["small"][0].asked[-1].body["stream_options"]["include_usage"] is True
    assert any(one["choices"] == [] for one in data(raw)[:-1]) is asked
    assert headers["content-type"].startswith("text/event-stream")
    entry = entry_of(good, headers)
    assert (entry.prompt_tokens, entry.completion_tokens, entry.cached_tokens, entry.stream) == (7, 3, 4, True)


@pytest.mark.parametrize(
    ("behave", "status", "code"),
    [
        (saying(plain(400, {"error": {"message": "too long for served-small", "code": 400, "param": "p"}})), 400, None),
        (
            saying(plain(400, {"object": "error", "message": "old vLLM", "type": "BadRequestError", "code": 400})),
            400,
            None,
        ),
        (saying(plain(422, {"detail": [{"loc": ["body"], "msg": "bad"}]})), 400, None),
        (saying(plain(401, {"error": {"message": "no key"}})), 502, "engine_key"),
        (saying(plain(404, {"detail": "Not Found"})), 404, "endpoint_not_found"),
        (saying(plain(404, {"error": {"message": "The model `x` does not exist."}})), 503, "model_not_loaded"),
        (saying(plain(429, {"error": "slow down"}, "retry-after: 17\r\n")), 429, None),
        (saying(plain(500, b"Internal Server Error")), 502, "engine_error"),
        (saying(plain(503, {}, "retry-after: 17\r\n")), 503, None),
        (saying(plain(504, {})), 504, "engine_timeout"),
        (saying(plain(302, {}, "location: http://127.0.0.1:1/\r\n")), 502, "engine_error"),
        (saying(plain(200, b"<html>")), 502, "engine_answer"),
        (saying(plain(200, [1])), 502, "engine_answer"),
        (saying(b"no http at all\r\n\r\n"), 502, "engine_broke_off"),
        (saying(then="close"), 502, "engine_broke_off"),
        (saying(then="reset"), 502, "engine_broke_off"),
        (saying(fake.head(length=100) + b'{"choices"', then="close"), 502, "engine_broke_off"),
        (saying(fake.head() + b"zz\r\n", then="close"), 502, "engine_broke_off"),
        (saying(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000), 502, "engine_broke_off"),
    ],
)
def test_an_engine_that_does_not_answer_is_an_error_body(behave: Behaviour, status: int, code: str | None) -> None:
    with running({"small": [behave]}) as gateway:
        got, headers, raw = post(gateway.url)
        said = error(raw)
        assert (got, said["code"]) == (status, code)
        assert "served-small" not in said["message"]
        if status in (429, 503):
            assert headers["retry-after"] == ("1" if code == "model_not_loaded" else "17")
        (entry,) = entries(gateway)
        assert (entry.status, entry.error) == (status, said["code"] or said["type"])


@pytest.mark.parametrize("message", TOO_LONG)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_too_long_for_the_model_has_the_code_that_clients_know(message: str, streamed: bool) -> None:
    with running({"small": [saying(too_long(message))]}) as gateway:
        status, headers, raw = post(gateway.url, {**ASK, "stream": streamed})
        assert (status, headers["content-type"]) == (400, "application/json")
        said = {"type": "invalid_request_error", "param": "input_tokens", "code": "context_length_exceeded"}
        assert error(raw) == {"message": message, **said}
        (entry,) = entries(gateway)
        assert (entry.status, entry.error, entry.retries) == (400, "context_length_exceeded", 0)


def test_what_is_too_long_only_after_a_stream_was_begun_has_it_too() -> None:
    begun = stream({"error": {"message": TOO_LONG[2], "type": "BadRequestError", "code": 400}}, done=False)
    with running({"small": [saying(begun)]}) as gateway:
        status, _, raw = post(gateway.url, {**ASK, "stream": True})
        assert (status, error(raw)["code"]) == (400, "context_length_exceeded")


SPOKEN = fake.chunks_of({"model": "served-small"}, ["ä", "€😀", "\r\n"])
WHOLE = stream(*SPOKEN)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([STREAM, *(WHOLE[n : n + 1] for n in range(len(STREAM), len(WHOLE)))], id="byte by byte"),
        pytest.param([WHOLE], id="all at once"),
        pytest.param(
            [STREAM, *(chunk(event(one).replace(b"\n", b"\r\n")) for one in [*SPOKEN, b"[DONE]"]), LAST], id="CRLF"
        ),
        pytest.param(
            [STREAM, *(chunk(b": ping\n\n" + event(one)) for one in [*SPOKEN, b"[DONE]"]), LAST], id="comments"
        ),
    ],
)
def test_however_a_stream_is_sent_the_words_are_the_same(parts: list[bytes]) -> None:
    with running({"small": [saying(*parts)]}) as gateway:
        status, _, raw = post(gateway.url, {**ASK, "stream": True})
        assert status == 200
        values = data(raw)
        assert values[-1] == b"[DONE]"
        assert "".join(one["choices"][0]["delta"].get("content", "") for one in values[:-1]) == "ä€😀\r\n"
        assert entries(gateway)[0].error is None


@pytest.mark.parametrize(
    ("parts", "then", "code"),
    [
        ([stream(*WORDS[:2], done=False)], "close", "stream_cut"),
        ([stream(*WORDS[:2], done=False)], "reset", "stream_cut"),
        ([stream(*WORDS[:2], done=False) + LAST], "keep", "stream_cut"),
        ([stream(*WORDS[:2], done=False) + chunk(event(WORDS[2])[:30]) + LAST], "keep", "stream_cut"),
        (
            [stream(*WORDS[:2], {"error": {"message": "out of memory", "code": 500}}, done=False)],
            "close",
            "engine_error",
        ),
    ],
)
def test_an_error_in_mid_stream_is_told_and_no_done_follows(parts: list[bytes], then: str, code: str) -> None:
    with running({"small": [saying(*parts, then=then)]}) as gateway:
        status, _, raw = post(gateway.url, {**ASK, "stream": True})
        assert status == 200
        *words, last = data(raw)
        assert len(words) == 2
        assert last["error"]["code"] == code
        (entry,) = entries(gateway)
        assert (entry.status, entry.error) == (200, code)


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (saying(STREAM, then="close"), 502),
        (saying(STREAM + chunk(b": ping\n\n") + LAST), 502),
        (saying(stream({"error": {"message": "no", "code": 400}}, done=False)), 400),
        (saying(stream({"error": {"message": "no", "code": 500}}, done=False)), 502),
    ],
)
def test_an_error_before_the_first_event_is_an_error_body(first: Behaviour, status: int) -> None:
    with running({"small": [first]}) as gateway:
        got, headers, raw = post(gateway.url, {**ASK, "stream": True})
        assert (got, headers["content-type"]) == (status, "application/json")
        assert error(raw)["message"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("bad", [saying(then="reset"), saying(plain(500, {})), saying(STREAM, then="close")])
def test_before_the_first_byte_another_replica_answers(bad: Behaviour, streamed: bool) -> None:
    # Whichever is asked first fails.
    with running({"small": [once(bad, then=speaking())] * 2}) as gateway:
        status, _, raw = post(gateway.url, {**ASK, "stream": streamed})
        assert [len(one.asked) for one in gateway.engines["small"]] == [1, 1]
        assert status == 200
        assert b"hello" in raw
        (entry,) = entries(gateway)
        assert (entry.retries, entry.fallback, entry.status) == (1, False, 200)


def test_a_refusal_of_the_request_itself_is_not_tried_again() -> None:
    with running({"small": [once(saying(plain(400, {"error": {"message": "no"}})), then=speaking())] * 2}) as gateway:
        assert post(gateway.url)[0] == 400
        assert sum(len(one.asked) for one in gateway.engines["small"]) == 1


def test_retries_stay_within_their_share() -> None:
    broken = [saying(plain(500, {})) for _ in range(3)]
    file = settings(limits={"retry_share": 0.1})
    with running({"small": broken}, file) as gateway:
        for _ in range(8):
            assert post(gateway.url)[0] in (502, 503)
        # 8 requests and a tenth of them again, rounded up.
        assert sum(len(one.asked) for one in gateway.engines["small"]) == 9
        assert gateway.app.core.counts["retry_refused", "m"] >= 6


@once_in_three
def test_a_replica_that_fails_is_left_alone_and_tried_again_later() -> None:
    """The one that is refused comes within the second for which it is left alone."""
    with running({"small": [saying(plain(500, {}))]}, settings(limits={"retry_share": 0})) as gateway:
        for _ in range(5):
            assert post(gateway.url)[0] == 502
        status, headers, raw = post(gateway.url)
        assert (status, error(raw)["code"], headers["retry-after"]) == (503, "engine_down", "1")
        engine = gateway.engines["small"][0]
        assert len(engine.asked) == 5
        engine.behave = speaking()
        time.sleep(1.05)
        assert post(gateway.url)[0] == post(gateway.url)[0] == 200


FALLBACK = {"m": {"policy": "direct", "engine": "large", "fallback": ["small"]}}


@pytest.mark.parametrize("large", [[], [saying(then="reset")]], ids=["not there", "broken"])
def test_a_fallback_answers_and_says_so(large: list[Behaviour]) -> None:
    with running({"small": [speaking()], "large": large}, settings(FALLBACK)) as gateway:
        status, headers, _ = post(gateway.url)
        assert (status, headers["x-llmops-engine"], headers["x-llmops-fallback"]) == (200, "small", "true")
        (entry,) = entries(gateway)
        assert (entry.engine, entry.version, entry.fallback) == ("small", "small/1", True)


def test_an_address_where_nobody_listens_costs_no_retry_of_the_budget() -> None:
    nobody = Target(Replica("large", 0, "http://127.0.0.1:1", state="ready"), "x", "large/1")
    file = settings(FALLBACK, limits={"retry_share": 0})
    with running({"small": [speaking()]}, file, addresses={"large": [nobody]}) as gateway:
        assert [post(gateway.url)[0] for _ in range(3)] == [200] * 3


def test_an_engine_that_does_not_begin_is_given_up() -> None:
    routes = {"m": {"policy": "direct", "engine": "small", "first_byte_s": 1.0}}  # enough for the one that answers
    hanging = once(saying(STREAM, then="hang"), then=speaking())
    with running({"small": [hanging, hanging]}, settings(routes)) as gateway:
        status, _, raw = post(gateway.url, {**ASK, "stream": True})
        assert (status, b"hello" in raw) == (200, True)
        wait_until(lambda: sum(one.left for one in gateway.engines["small"]))
        assert sum(one.left for one in gateway.engines["small"]) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_has_its_time(streamed: bool) -> None:
    # A stream must have begun by then.
    routes = {"m": {"policy": "direct", "engine": "small", "timeout_s": 1.0 if streamed else 0.05}}
    begun = saying(*([STREAM, chunk(event(WORDS[0]))] if streamed else []), then="hang")
    with running({"small": [begun]}, settings(routes)) as gateway:
        status, _, raw = post(gateway.url, {**ASK, "stream": streamed})
        last = data(raw)[-1]["error"] if streamed else error(raw)
        assert (status, last["code"]) == ((200, "timeout") if streamed else (504, "timeout"))
