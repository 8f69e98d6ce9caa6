"""A load test measures what a client would wait for, also while the server stalls, and knows its own limits."""

from __future__ import annotations

import asyncio
import json
import random
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import EnvironmentFault, InputError
from llmops.events import Silent
from llmops.serve.arrivals import Lengths, Shot, Work, poisson
from llmops.serve.bench import Found, Target, compared, find_largest
from llmops.serve.bench_load import Loaded, Sent, load
from llmops.serve.bench_report import as_json, page
from llmops.serve.bench_summary import Objective, Summary, differences, objective, summarised
from tests.patience import once_in_three
from tests.serve.stream_server import Streams, at_once, chunk, streaming
from tests.serve.test_arrivals import waits

WORK = Work("m", (), Lengths("fixed", 3), Lengths("fixed", 4))
NEAR = 0.03  # seconds that a busy machine may add


def shots(*times: float) -> list[Shot]:
    return [Shot(at, WORK.body(random.Random(1))) for at in times]


def plan(rate: float, seconds: float, seed: int) -> list[Shot]:
    return poisson(WORK, rate, seconds, seed)


def values(found: Loaded, what: Callable[[Sent], float | None]) -> list[float]:
    return [value for one in found.sent if (value := what(one)) is not None]


# What is measured.


@once_in_three
def test_times_of_a_stream_are_those_the_server_took() -> None:
    async def slow(since: float, body: dict[str, Any]) -> None:
        await asyncio.sleep(0.08)

    with streaming(Streams(slow, pieces=5, gap=0.04)) as served:
        found = asyncio.run(load(served.url, shots(*(0.1 * k for k in range(6))), key="k"))
    assert [one.error for one in found.sent] == [None] * 6
    assert {(one.tokens, one.prompt_tokens, len(one.gaps)) for one in found.sent} == {(5, 7, 4)}
    assert np.median(values(found, lambda one: one.to_first)) == pytest.approx(0.08, abs=NEAR)
    assert np.median(values(found, lambda one: one.per_token)) == pytest.approx(0.04, abs=0.01)
    assert np.median(values(found, lambda one: one.latency)) == pytest.approx(0.08 + 4 * 0.04, abs=NEAR)
    assert served.headers[0]["authorization"] == "Bearer k"
    assert served.asked[0] == shots(0.0)[0].body


@once_in_three
def test_a_queue_with_one_server_shows_the_waits_of_an_m_d_1_queue() -> None:
    service, turn = 0.02, asyncio.Lock()

    async def queue(since: float, body: dict[str, Any]) -> None:
        async with turn:
            # A sleep of the system ends late; the queue is to keep to its times.
            until = time.perf_counter() + service
            await asyncio.sleep(service - 0.002)
            while time.perf_counter() < until:
                pass

    asked = plan(25.0, 5.0, 4)
    with streaming(Streams(queue)) as served:
        found = asyncio.run(load(served.url, asked))
    wanted = np.array(waits(asked, service)) + service
    took = np.array(values(found, lambda one: one.to_first))
    assert np.median(np.abs(took - wanted)) < 0.015
    assert took.mean() == pytest.approx(wanted.mean(), abs=NEAR)
    assert np.all(took > wanted - 0.005)  # nothing is faster than the queue allows


@once_in_three
def test_a_stall_counts_for_all_requests_that_would_have_come_meanwhile() -> None:
    """Coordinated omission: a load that waits for each answer would show one slow request."""

    async def stall(since: float, body: dict[str, Any]) -> None:
        if 0.5 < since < 1.5:
            await asyncio.sleep(1.5 - since)

    asked = shots(*(k / 40 for k in range(80)))
    with streaming(Streams(stall)) as served:
        found = asyncio.run(load(served.url, asked))
    summary = summarised([found], 40.0, Objective({"ttft": 0.25}))
    wanted = np.sort([max(0.0, 1.5 - shot.at) if 0.5 < shot.at < 1.5 else 0.0 for shot in asked])
    points = {point.share: point.value for point in summary.times["e2e"]}
    for share in (0.5, 0.9, 0.95, 0.99):
        assert points[share] == pytest.approx(wanted[int(np.ceil(share * 80)) - 1], abs=2 * NEAR)
    assert points[0.99] > 0.9
    # 1 second less the last 0.25 of it.
    assert summary.attained == pytest.approx(1 - 0.75 * 40 / 80, abs=0.04)


def test_a_generator_that_is_late_says_so_and_hides_nothing() -> None:
    blocked = False

    def block(done: int) -> None:
        nonlocal blocked
        if done >= 10 and not blocked:
            blocked = True
            time.sleep(0.4)

    asked = shots(*(k / 50 for k in range(50)))
    with streaming(Streams(at_once)) as served:
        found = asyncio.run(load(served.url, asked, heard=block))
    summary = summarised([found], 50.0, Objective())
    assert max(one.lag for one in found.sent) > 0.3
    assert all(one.latency >= one.lag for one in found.sent)
    assert summary.bottleneck is not None
    assert "late" in summary.bottleneck


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a refusal": ({"status": lambda number: 503}, "status 503"),
    "a cut stream": ({"end": b""}, "a stream that was cut"),
    "an error in the stream": ({"end": chunk(error={"message": "x"})}, "an error in the stream"),
    "a chunk of another form": ({"end": chunk(choices=["x"])}, "a chunk of another form"),
    "a garbled chunk": ({"end": b"data: {\n\n"}, "a chunk that is no JSON"),
}


@pytest.mark.parametrize(("settings", "said"), FAULTS.values(), ids=FAULTS)
def test_what_fails_is_counted_by_its_reason_and_is_no_latency(settings: dict[str, Any], said: str) -> None:
    with streaming(Streams(at_once, **settings)) as served:
        found = asyncio.run(load(served.url, shots(0.0, 0.01)))
    summary = summarised([found], 1.0, Objective())
    assert summary.failed == {said: 2}
    assert (summary.answered, summary.attained, summary.times["e2e"]) == (0, 0.0, ())


def test_too_many_open_requests_and_too_long_ones_are_failures() -> None:
    async def never(since: float, body: dict[str, Any]) -> None:
        await asyncio.sleep(30)

    with streaming(Streams(never)) as served:
        found = asyncio.run(load(served.url, shots(0.0, 0.0, 0.0), most_open=2, timeout_s=0.3))
    assert [one.error for one in found.sent] == ["no end within 0.3 s"] * 2 + ["not sent: 2 were open"]


def test_without_usage_the_pieces_are_counted() -> None:
    with streaming(Streams(at_once, pieces=4, usage=False)) as served:
        found = asyncio.run(load(served.url, shots(0.0)))
    assert (found.sent[0].tokens, found.sent[0].prompt_tokens) == (4, None)


# Its arithmetic.


def sent(first: float, latency: float, tokens: int, error: str | None = None) -> Sent:
    return Sent(1.0, 1.0, 1 + first, 1 + latency, 1 + latency, array("d"), tokens, 3, error)


def test_an_objective_holds_for_what_keeps_to_all_of_it() -> None:
    wanted = objective("ttft=500ms, tpot=50ms,e2e=2s")
    assert wanted == Objective({"ttft": 0.5, "tpot": 0.05, "e2e": 2.0})
    assert wanted.met(sent(0.4, 0.8, 11))  # 40 ms a token
    assert not wanted.met(sent(0.6, 0.8, 11))
    assert not wanted.met(sent(0.4, 0.8, 7))  # 67 ms a token
    assert not wanted.met(sent(0.4, 2.5, 101))
    assert not wanted.met(sent(0.4, 0.8, 11, "cut"))
    assert wanted.met(sent(0.4, 0.4, 1))
    with pytest.raises(InputError, match="did you mean `ttft`"):
        objective("tfft=3ms")
    with pytest.raises(InputError, match="ttft=500ms"):
        objective("ttft=500")


def test_rates_and_counts_are_over_the_whole_time() -> None:
    one = Loaded([sent(0.1, 0.2, 5), sent(0.9, 1.0, 5)], 4.0, 0.2)
    other = Loaded([sent(0.1, 0.2, 5), sent(0.1, 0.2, 5, "cut")], 6.0, 0.7)
    summary = summarised([one, other], 0.5, objective("ttft=500ms"))
    assert (summary.requests, summary.answered, summary.failed) == (4, 3, {"cut": 1})
    assert (summary.achieved, summary.good, summary.attained) == (0.3, 0.2, 0.5)
    assert (summary.tokens, summary.tokens_per_s, summary.prompt_tokens) == (15, 1.5, 9)
    assert summary.busy == pytest.approx((4 * 0.2 + 6 * 0.7) / 10)


def test_an_interval_of_a_percentile_holds_the_true_one_as_often_as_it_says() -> None:
    draw, held = np.random.default_rng(3), 0
    for _ in range(200):
        times = draw.exponential(1.0, 300)
        summary = summarised([Loaded([sent(value, value, 1) for value in times], 1.0, 0.0)], 1.0, Objective())
        (point,) = (point for point in summary.times["e2e"] if point.share == 0.9)
        assert point.low is not None
        assert point.high is not None
        held += point.low <= -np.log(0.1) <= point.high
    assert held >= 181  # of 200 at .95, with a chance of less than 1 in 1,000 of fewer


def fake(rate: float, attained: float, bottleneck: str | None = None) -> Summary:
    empty = summarised([Loaded([], 1.0, 0.0)], rate, Objective())
    from dataclasses import replace

    return replace(empty, attained=attained, bottleneck=bottleneck)


@settings(max_examples=60, deadline=None)
@given(limit=st.floats(0.05, 1000.0), start=st.floats(0.5, 50.0))
def test_the_largest_rate_is_found_within_a_tenth(limit: float, start: float) -> None:
    async def trial(rate: float) -> Summary:
        return fake(rate, 1.0 if rate <= limit else 0.5)

    found = asyncio.run(find_largest(trial, start, share=0.99))
    if found.open_ended:
        assert limit >= found.rate == start * 2**11
    elif found.rate:
        assert found.rate <= limit <= 1.1 * found.rate * (1 + 1e-9)
    else:
        assert limit < start / 2**6
    assert len(found.trials) < 20


def test_a_search_that_the_generator_could_not_follow_says_there_may_be_more() -> None:
    async def trial(rate: float) -> Summary:
        return fake(rate, 1.0 if rate < 30 else 0.4, None if rate < 30 else "too slow")

    found = asyncio.run(find_largest(trial, 4.0, share=0.99))
    assert (found.rate, found.open_ended) == (16.0, True)


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_two_targets_differ_by_what_one_is_slower(shift: float) -> None:
    draw = np.random.default_rng(1)

    def rounds(shift: float) -> list[Loaded]:
        found = []
        for _ in range(4):
            times = draw.exponential(0.1, 200) + shift
            found.append(
                Loaded(
                    [Sent(k / 20, k / 20, k / 20 + t, k / 20 + t, k / 20 + t, tokens=2) for k, t in enumerate(times)],
                    10,
                    0,
                )
            )
        return found

    for one in differences(rounds(0.0), rounds(shift)):
        assert one.low <= shift <= one.high
        assert one.low < one.value < one.high
        if shift and one.share == 0.5:
            assert one.low > 0


# The whole.


def test_two_targets_are_asked_the_same_in_turns_and_warm_up_counts_nowhere() -> None:
    order: list[str] = []

    def noting(name: str) -> Streams:
        async def note(since: float, body: dict[str, Any]) -> None:
            order.append(name)

        return Streams(note)

    with streaming(noting("a")) as a, streaming(noting("b")) as b:
        benched, found = asyncio.run(
            compared(
                [Target(a.url), Target(b.url, None, "other")],
                plan,
                rate=20.0,
                seconds=2.0,
                warmup_s=0.3,
                rounds=4,
                seed=1,
                wanted=Objective({"ttft": 5.0}),
                listener=Silent(),
            )
        )
    warm = len(plan(20.0, 0.3, 1 + 10_000))
    lasting = order[2 * warm :]
    turns = [name for place, name in enumerate(lasting) if not place or lasting[place - 1] != name]
    assert turns == ["a", "b", "a", "b", "a"]  # a b, b a, a b, b a
    assert [body["messages"] for body in a.asked] == [body["messages"] for body in b.asked]
    assert {body["model"] for body in b.asked} == {"other"}
    assert benched[0].summary.requests == benched[1].summary.requests == len(a.asked) - warm
    assert {one.kind for one in found} == {"ttft", "e2e"}


def test_a_target_that_answers_nothing_is_said_before_anything_is_measured() -> None:
    with pytest.raises(EnvironmentFault, match="answered none"):
        asyncio.run(
            compared(
                [Target("http://127.0.0.1:9/v1")],
                plan,
                rate=20.0,
                seconds=1.0,
                warmup_s=0.3,
                rounds=1,
                seed=1,
                wanted=Objective(),
                listener=Silent(),
            )
        )


def test_the_page_asks_nothing_of_a_network_and_shows_nothing_as_markup() -> None:
    loaded = Loaded([sent(0.1 + k / 100, 0.5, 5) for k in range(50)], 10.0, 0.95)
    summary = summarised([loaded], 5.0, Objective({"ttft": 0.3}))
    from llmops.serve.bench import Benched

    found = Found(5.0, (summary,), open_ended=True)
    made = page({"model": "<script>x</script>"}, [Benched("http://h/v1", (loaded,), summary)], [], found)
    assert made.count("<svg") == 5
    assert "<script" not in made
    assert "&lt;script&gt;" in made
    assert 'src="' not in made
    assert "it used 95% of a processor" in made
    assert "or more" in made
    figures = json.loads(json.dumps(as_json({}, [Benched("u", (loaded,), summary)], [], found)))
    assert figures["targets"][0]["attained"] == summary.attained


def test_the_command_prints_writes_and_searches(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from llmops.cli.main import app

    with streaming(Streams(at_once)) as served:
        done = CliRunner().invoke(
            app,
            [
                *("bench", served.url, "--model", "m", "--rate", "15", "--seconds", "1", "--warmup", "0.2"),
                *("--against", served.url, "--rounds", "2", "--slo", "ttft=5s", "--out", str(tmp_path / "page.html")),
            ],
        )
    assert done.exit_code == 0, done.output
    assert "share within it" in done.output
    assert "the second is" in done.output
    figures = json.loads((tmp_path / "page.json").read_text())
    assert [target["failed"] for target in figures["targets"]] == [{}, {}]
    assert "<svg" in (tmp_path / "page.html").read_text()
