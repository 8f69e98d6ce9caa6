"""Whatever engines do, a client gets an answer, an error body or an error in the stream, and the ledger one row."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmops.serve.hooks import Anybody, Caller, Hold
from llmops.serve.refusal import Refusal
from llmops.serve.targets import Replica, Target
from tests.patience import HANG_S, once_in_three, wait_until
from tests.serve import fake_engine as fake
from tests.serve.fake_engine import LAST, STREAM, Behaviour, Go, chunk, event, holding, once, plain, saying, speaking
from tests.serve.gateways import Running, running, settings

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
WORDS = fake.chunks_of({"model": "served-small"}, ["a", "b"])


def post(url: str, body: Any = ASK, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body; the whole of a stream."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HANG_S)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, raw, {"content-type": "application/json", **names})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def error(raw: bytes) -> dict[str, Any]:
    """The error of a body, which must be of the form clients know."""
    said: dict[str, Any] = json.loads(raw)["error"]
    assert set(said) == {"message", "type", "param", "code"}
    assert said["message"]
    return said


def data(raw: bytes) -> list[Any]:
    parts = [one.removeprefix(b"data: ") for one in raw.split(b"\n\n") if one.startswith(b"data: ")]
    return [one if one == b"[DONE]" else json.loads(one) for one in parts]


def stream(*values: Any, done: bool = True) -> bytes:
    return STREAM + b"".join(chunk(event(one)) for one in values) + (chunk(event(b"[DONE]")) + LAST if done else b"")


def entries(gateway: Running, count: int = 1) -> list[Any]:
    """The rows; each is written at the very end, when the client has its answer already."""
    wait_until(lambda: len(gateway.notes.observed) >= count)
    assert len(gateway.notes.entries) == count
    assert gateway.notes.observed == gateway.notes.entries
    return gateway.notes.entries


def entry_of(gateway: Running, headers: Any) -> Any:
    """The row of an answer."""

    def found() -> list[Any]:
        return [entry for entry in gateway.notes.observed if entry.id == headers["x-request-id"]]

    wait_until(found, "it was not written down")
    return found()[0]


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


TOO_LONG = [
    # vLLM 0.32: renderers/params.py, v1/engine/input_processor.py, entrypoints/serve/utils/api_utils.py.
    "This model's maximum context length is 128 tokens. However, your prompt contains at least 129 input tokens, which "
    "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=129)",
    "max_tokens=100000 cannot be greater than max_model_len=128. Please request fewer output tokens. "
    "(parameter=max_tokens, value=100000)",
    "The decoder prompt (length 128) plus the number of requested output tokens (at least 1) is longer than the "
    "maximum model length of 128. Make sure that `max_model_len` is no smaller than the number of text tokens.",
    "Input length (129) exceeds model's maximum context length (128).",
    # SGLang, managers/tokenizer_manager.py; llama.cpp, tools/server.
    "The input (129 tokens) is longer than the model's context length (128 tokens).",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
]


def too_long(message: str = TOO_LONG[0]) -> bytes:
    """The body is that of vLLM's ErrorResponse."""
    said = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    return plain(400, {"error": said})


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


def test_a_cascade_goes_on_to_the_large_model_with_what_is_too_long_for_the_small_one() -> None:
    with running({"small": [saying(too_long())], "large": [speaking(["large says"])]}, settings(CASCADE)) as gateway:
        status, headers, _ = post(gateway.url)
        assert (status, headers["x-llmops-engine"]) == (200, "large")
        (entry,) = entries(gateway)
        assert (entry.escalated, entry.fallback) == (True, False)
    with running({"small": [saying(too_long())], "large": [saying(too_long())]}, settings(CASCADE)) as gateway:
        status, _, raw = post(gateway.url)
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


class Strict:
    """Lets in whoever says `Bearer good`, to every route but `secret`, and only while there are tokens left."""

    def __init__(self) -> None:
        self.settled: list[tuple[int | None, float | None]] = []
        self.left = True

    def who(self, secret: str | None) -> Caller:
        if secret != "good":
            raise Refusal(401, "there is no such key", code="invalid_api_key")
        return Anybody(tags=("team-a",))

    def may(self, caller: Caller, route: str) -> bool:
        return route != "secret"

    def reserve(self, caller: Caller, tokens: int) -> Hold:
        if not self.left:
            raise Refusal(429, "60 requests a minute", code="rate_limit_exceeded", retry_after=12.3)
        return self

    def settle(self, tokens: int | None, usd: float | None) -> None:
        self.settled.append((tokens, usd))


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
