"""A served model is asked many items at a time, patiently; what it answered is kept when it fails for good."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from llmops.client import Patience
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.cache import AnswerCache
from llmops.eval.engines.endpoint import Endpoint, endpoint
from llmops.eval.engines.engine import Generated
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Silent
from tests.eval.chat_server import Reply, Served, chat, echo, serving

MakeItem = Callable[..., Item]
GREEDY = Generation(max_tokens=7)
SOON = Patience(timeout_s=60, attempts=4, first_wait_s=0.01)


def ask(
    served: Served, items: list[Item], generation: Generation = GREEDY, *, kept: Path | None = None, **settings: Any
) -> Generated:
    asked = endpoint(served.url, "m", **{"patience": SOON, **settings})
    return asked(items, generation, listener=Silent(), cache=AnswerCache(kept, asked.digest) if kept else None)


@pytest.fixture
def items(make_item: MakeItem) -> list[Item]:
    return [make_item(f"question {number}") for number in range(8)]


def test_each_item_gets_the_answer_to_its_own_prompt_with_what_the_server_says_of_it(items: list[Item]) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.02 * (number % 3))  # they come back in another order
        return chat(f"to {body['messages'][-1]['content']}", finish="length", tokens=number)

    with serving(says) as served:
        made = ask(served, items)
    assert [answer.item for answer in made.answers] == [item.id for item in items]
    assert [answer.text for answer in made.answers] == [f"to {item.prompt}" for item in items]
    assert {answer.finish for answer in made.answers} == {"length"}
    assert sorted(answer.tokens or 0 for answer in made.answers) == list(range(1, 9))
    assert made.engine["url"] == served.url


def test_it_can_be_asked_in_a_notebook_where_a_loop_runs_already(items: list[Item]) -> None:
    async def cell(served: Served) -> Generated:
        return ask(served, items)

    with serving(echo) as served:
        assert len(asyncio.run(cell(served)).answers) == len(items)


def test_the_suites_decoding_and_the_key_are_sent_and_the_key_is_written_nowhere(items: list[Item]) -> None:
    sampled = Generation(max_tokens=5, temperature=0.5, seed=3, stop=("\n", "END"))
    with serving(echo) as served:
        made = ask(served, items[:1], sampled, key="s3cret")
        ask(served, items[:1])
    shared = {"model": "m", "messages": [{"role": "user", "content": "question 0"}]}
    assert served.asked == [
        {**shared, "max_tokens": 5, "temperature": 0.5, "seed": 3, "stop": ["\n", "END"]},
        {**shared, "max_tokens": 7, "temperature": 0.0},
    ]
    assert served.headers[0]["authorization"] == "Bearer s3cret"
    assert "authorization" not in served.headers[1]
    assert "s3cret" not in repr(made) + repr(Endpoint("u", "m", "s3cret"))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_so_many_requests_are_under_way_at_a_time_and_no_more(items: list[Item], concurrency: int) -> None:
    all_there = threading.Barrier(concurrency)

    def says(number: int, body: dict[str, Any]) -> Reply:
        all_there.wait(60)
        time.sleep(0.05)
        return chat("x")

    with serving(says) as served:
        began = time.perf_counter()
        made = ask(served, items, concurrency=concurrency)
        took = time.perf_counter() - began
    assert served.most_at_once == concurrency
    seconds = [answer.seconds or 0 for answer in made.answers]
    assert min(seconds) >= 0.05
    # From sending to the last byte: what waited here for its turn does not count, or the sum would be larger.
    assert sum(seconds) <= concurrency * took


TROUBLE: dict[str, Reply] = {
    "an error of the server": (500, {}, b"out of memory"),
    "too many requests": (429, {}, b""),
    "a garbled body": (200, {}, b"<html>"),
    "null": (200, {}, b"null"),
    "no choices": (200, {}, b'{"choices": []}'),
    "a body that breaks off": (200, {"content-length": "999"}, b'{"choices"'),
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_trouble_that_passes_is_waited_for(items: list[Item], trouble: Reply) -> None:
    with serving(lambda number, body: trouble if number <= 2 else echo(number, body)) as served:
        made = ask(served, items[:2], concurrency=1)
    assert [answer.text for answer in made.answers] == ["to question 0", "to question 1"]
    assert len(served.asked) == 4


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_that_says_when_to_come_again_is_left_alone_until_then(items: list[Item], as_date: bool) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        # A date has whole seconds, so that two may be little more than one.
        when = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return (429, {"retry-after": when}, b"") if number == 1 else echo(number, body)

    with serving(says) as served:
        ask(served, items[:1])
    assert served.times[1] - served.times[0] >= 0.9


def test_a_slow_answer_is_given_up_and_asked_again(items: list[Item]) -> None:
    given_up = threading.Event()

    def says(number: int, body: dict[str, Any]) -> Reply:
        if number == 1:
            given_up.wait()
        return echo(number, body)

    with serving(says) as served:
        began = time.perf_counter()
        # Many attempts: on a busy machine one that is answered at once may be given up as well.
        made = ask(served, items[:1], patience=Patience(timeout_s=0.3, attempts=30, first_wait_s=0.01))
        took = time.perf_counter() - began
        given_up.set()
    assert made.answers[0].text == "to question 0"
    assert (made.answers[0].seconds or took) <= took - 0.29, "of the attempt that succeeded alone"


def test_an_endpoint_that_fails_for_good_stops_it_and_what_it_answered_is_kept(
    items: list[Item], tmp_path: Path
) -> None:
    healthy = False

    def says(number: int, body: dict[str, Any]) -> Reply:
        return echo(number, body) if healthy or number <= 3 else (503, {}, b"loading")

    with serving(says) as served:
        with pytest.raises(EnvironmentFault) as stopped:
            ask(served, items, kept=tmp_path, concurrency=1)
        assert stopped.value.problem == (
            f"the endpoint {served.url} failed 4 times in a row: status 503: loading; 3 of 8 answers are kept"
        )
        assert stopped.value.fix.endswith("then run the same command again to go on")
        assert len(served.asked) == 3 + SOON.attempts
        healthy = True
        made = ask(served, items, kept=tmp_path)
        assert len(served.asked) == 3 + SOON.attempts + 5
    assert [answer.text for answer in made.answers] == [f"to {item.prompt}" for item in items]
    assert made.kept == {item.id for item in items[:3]}


def test_a_request_that_the_server_refuses_is_not_tried_again(items: list[Item]) -> None:
    with (
        serving(lambda number, body: (400, {}, b'{"error": "max_tokens\\n is too large"}')) as served,
        pytest.raises(InputError, match=r'refuses the request with status 400: \{"error": "max_tokens'),
    ):
        ask(served, items, concurrency=1)
    assert len(served.asked) == 1
    with (
        serving(echo, models=(401, {}, b"who?")) as served,
        pytest.raises(InputError, match="status 401: who") as refused,
    ):
        ask(served, items)
    assert "--api-key-env" in refused.value.fix


def test_an_endpoint_that_is_down_is_said_before_anything_is_asked() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, nor can begin to
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EnvironmentFault, match="failed 2 times in a row: Cannot connect") as down:
            endpoint(url, "m", patience=Patience(attempts=2, first_wait_s=0.01))
    assert "see that it is up" in down.value.fix


def test_the_model_must_be_one_that_the_server_has() -> None:
    models: Reply = (200, {}, b'{"data": [{"id": "model-1"}, {"id": "other"}]}')
    with (
        serving(echo, models=models) as served,
        pytest.raises(InputError, match="has no model 'model1'; did you mean `model-1`") as unknown,
    ):
        endpoint(served.url, "model1")
    assert unknown.value.fix.endswith("model-1, other")


def test_a_server_that_lists_no_models_is_asked_all_the_same(items: list[Item]) -> None:
    with serving(echo, models=(404, {}, b"")) as served:
        assert ask(served, items[:1]).answers[0].text == "to question 0"


def test_what_stands_for_the_model_is_the_address_its_name_and_what_the_server_says_of_it() -> None:
    with serving(echo) as served:
        first, again = (endpoint(served.url, "m") for _ in range(2))
        served.models = (200, {}, b'{"data": [{"id": "m", "root": "/weights/other", "created": 1}]}')
        other = endpoint(served.url, "m")
        served.models = (200, {}, b'{"data": [{"id": "m", "root": "/weights/m", "created": 2}]}')
        later = endpoint(served.url, "m")
    assert first.digest == again.digest == later.digest != other.digest
    assert Endpoint("http://one/v1", "m").digest != Endpoint("http://two/v1", "m").digest


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "http://", "http://user:pass@host/v1"])
def test_an_address_that_cannot_be_asked_or_shown_is_refused(address: str) -> None:
    with pytest.raises(InputError) as refused:
        endpoint(address, "m")
    assert "pass@" not in refused.value.problem


def test_a_plain_prompt_is_completed_not_chatted_about(items: list[Item]) -> None:
    def says(number: int, body: dict[str, Any]) -> Reply:
        assert "messages" not in body
        return 200, {}, json.dumps({"choices": [{"text": f" {body['prompt']}!", "finish_reason": "stop"}]}).encode()

    with serving(says) as served:
        made = ask(served, items[:2], Generation(max_tokens=7, prompt="plain"))
    assert [answer.text for answer in made.answers] == [" question 0!", " question 1!"]
    assert set(served.paths) == {"/v1/completions"}
