"""Places at replicas go to whoever came first, are never given twice, and come back whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from llmops.serve.breaker import FAILURES
from llmops.serve.dispatch import Dispatch, Down, Place
from llmops.serve.refusal import Refusal
from llmops.serve.settings import Direct
from llmops.serve.targets import Replica, State, Target, Targets


def route(**others: Any) -> Direct:
    return Direct.model_validate({"policy": "direct", "engine": "e", "queue_s": 5, **others})


def dispatch(*states: State, in_flight: int = 1, usd: float | None = None) -> Dispatch:
    targets = Targets()
    made = [Replica("e", n, f"http://h:{n}", state=state, usd_per_hour=usd) for n, state in enumerate(states)]
    targets.set("e", [Target(one, "m", "v") for one in made])
    return Dispatch(targets, in_flight=in_flight)


def take(
    gives: Dispatch, settings: Direct | None = None, *, patient: bool = True, tried: set[Replica] | None = None
) -> Coroutine[Any, Any, Place]:
    return gives.take("e", key=lambda: None, tried=tried or set(), route=settings or route(), patient=patient)


def test_those_who_wait_are_served_in_order() -> None:
    async def run() -> None:
        gives = dispatch("ready")
        place = await take(gives)
        order: list[int] = []

        async def wait(number: int) -> None:
            mine = await take(gives)
            order.append(number)
            gives.give_back(mine, succeeded=True)

        waiting = []
        for number in range(5):
            waiting.append(asyncio.create_task(wait(number)))
            await asyncio.sleep(0)
        assert gives.waiting() == {"e": 5}
        gives.give_back(place, succeeded=True)
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2, 3, 4]
        assert gives.waiting() == {}

    asyncio.run(run())


def test_the_line_has_an_end_and_waiting_too() -> None:
    async def run() -> None:
        gives = dispatch("ready")
        await take(gives)
        with pytest.raises(Refusal) as refused:
            await take(gives, route(queue=0))
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        with pytest.raises(Refusal) as refused:
            await take(gives, route(queue_s=0.02))
        assert (refused.value.status, refused.value.code) == (503, "queue_timeout")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("states", "patient", "soon"),
    [
        ((), True, False),
        (("failed",), True, False),
        (("stopped", "starting"), False, True),
        (("waiting",), False, True),
    ],
)
def test_an_engine_that_is_down_is_told_at_once(states: tuple[State, ...], patient: bool, soon: bool) -> None:
    async def run() -> None:
        with pytest.raises(Down) as down:
            await take(dispatch(*states), patient=patient)
        assert down.value.soon is soon

    asyncio.run(run())


@pytest.mark.parametrize("becomes", ["ready", "failed"])
def test_the_patient_wait_until_it_is_ready_or_given_up(becomes: State) -> None:
    async def run() -> None:
        gives = dispatch("starting")
        (target,) = gives.targets.of("e")
        waiting = asyncio.create_task(take(gives))
        await asyncio.sleep(0.01)
        # Those who would rather ask another engine do not stand behind them.
        with pytest.raises(Down):
            await take(gives, patient=False)
        target.replica.state = becomes
        if becomes == "ready":
            assert (await waiting).target is target
        else:
            with pytest.raises(Down):
                await waiting

    asyncio.run(run())


def test_a_replica_that_failed_the_request_is_not_asked_again() -> None:
    async def run() -> None:
        gives = dispatch("ready", "ready")
        first, second = gives.targets.of("e")
        assert (await take(gives, tried={first.replica})).target is second
        with pytest.raises(Down):
            await take(gives, tried={first.replica, second.replica})

    asyncio.run(run())


def test_one_that_a_replica_failed_holds_up_nobody_who_may_go_there() -> None:
    async def run() -> None:
        gives = dispatch("ready", "ready")
        first, second = await take(gives), await take(gives)
        again = asyncio.create_task(take(gives, tried={first.target.replica}))
        behind = asyncio.create_task(take(gives))
        await asyncio.sleep(0)
        gives.give_back(first, succeeded=True)
        assert (await behind).target is first.target
        assert not again.done()
        assert gives.waiting() == {"e": 1}
        gives.give_back(await behind, succeeded=True)
        assert (await take(gives)).target is first.target
        gives.give_back(second, succeeded=True)
        assert (await again).target is second.target
        assert not gives.waiting()

    asyncio.run(run())


def test_replicas_that_fail_are_left_alone() -> None:
    async def run() -> None:
        gives = dispatch("ready", "ready", in_flight=10)
        first, _ = gives.targets.of("e")
        for _ in range(FAILURES):
            gives.standing(first.replica).breaker.failed(asyncio.get_running_loop().time())
        assert {(await take(gives)).target.replica.number for _ in range(4)} == {1}

    asyncio.run(run())


def test_the_price_of_an_hour_is_shared_by_time_and_number() -> None:
    async def run() -> None:
        gives = dispatch("ready", in_flight=3, usd=3600.0)
        now = 1000.0
        asyncio.get_running_loop().time = lambda: now  # type: ignore[method-assign]
        first = await take(gives)
        now += 1
        second = await take(gives)
        now += 4
        first_usd = gives.give_back(first, succeeded=True)
        now += 16
        second_usd = gives.give_back(second, succeeded=True)
        # One dollar a second: alone, shared by two, alone.
        assert (first_usd, second_usd) == (1 + 4 / 2, 4 / 2 + 16)

    asyncio.run(run())


def test_no_place_is_lost_or_given_twice_however_requests_come_and_go() -> None:
    chance = random.Random(5)
    most = 0

    async def one(gives: Dispatch) -> None:
        nonlocal most
        try:
            place = await take(gives, route(queue_s=chance.choice([0.001, 0.01, 5])))
        except Refusal:
            return
        try:
            most = max(most, *(target.replica.in_flight for target in gives.targets.of("e")))
            await asyncio.sleep(chance.random() * 0.004)
        finally:
            gives.give_back(place, succeeded=chance.choice([True, None]))

    async def run() -> None:
        gives = dispatch("ready", "ready", in_flight=2)
        tasks = []
        for _ in range(600):
            tasks.append(asyncio.create_task(one(gives)))
            if chance.random() < 0.3:
                await asyncio.sleep(0.001)
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [(one.replica.in_flight, one.use.in_flight) for one in gives.targets.of("e")] == [(0, 0), (0, 0)]
        assert gives.waiting() == {}
        assert most == 2

    asyncio.run(run())
