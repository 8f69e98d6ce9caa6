"""However many look at a campaign, its report is computed once in some seconds, and nobody waits in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llmops.feedback.faults import NotThere
from llmops.feedback.kept_reports import KEPT_S, KeptReports
from tests.patience import HANG_S, wait_until


class Computed:
    """Reports that are numbers: how many were made before. Each takes `s` of the clock's seconds."""

    def __init__(self, s: float = 0.0) -> None:
        self.now, self.s, self.made = 0.0, s, 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.begun = 0
        self.fault: Exception | None = None

    def __call__(self, campaign: str) -> Any:
        self.begun += 1
        assert self.go_on.wait(HANG_S)
        self.now += self.s
        if self.fault is not None:
            raise self.fault
        self.made += 1
        return self.made

    def kept(self) -> KeptReports:
        return KeptReports(self, clock=lambda: self.now)


def test_fifty_viewers_cost_one_computation() -> None:
    computed = Computed()
    computed.go_on.clear()
    kept = computed.kept()

    async def viewers() -> list[Any]:
        before = set(threading.enumerate())
        waiting = [asyncio.create_task(kept.of("c")) for _ in range(50)]
        while not computed.begun:
            await asyncio.sleep(0.001)
        assert len(set(threading.enumerate()) - before) == 1, "those who wait hold no thread"
        computed.go_on.set()
        return list(await asyncio.gather(*waiting))

    assert asyncio.run(viewers()) == [1] * 50
    assert computed.made == 1


def test_a_report_is_kept_some_seconds_and_made_anew_then() -> None:
    computed = Computed()
    kept = computed.kept()
    assert asked(kept) == 1
    computed.now += KEPT_S - 1
    assert asked(kept) == 1
    computed.now += 2
    assert asked(kept) == 2


def test_of_a_report_that_takes_long_the_last_is_shown_while_the_next_is_computed() -> None:
    computed = Computed(s=60.0)
    kept = computed.kept()
    assert asked(kept) == 1
    computed.now += 5 * 60 - 1
    assert asked(kept) == 1
    computed.now += 2
    computed.go_on.clear()
    assert asked(kept) == 1, "nobody waits for a minute"
    computed.go_on.set()
    wait_until(lambda: asked(kept) == 2)
    assert computed.made == 2


def test_what_was_changed_is_in_the_next_report() -> None:
    computed = Computed()
    kept = computed.kept()
    asked(kept)
    kept.outdated("c")
    assert asked(kept) == 2


def test_a_change_during_the_computation_is_in_the_one_after_it() -> None:
    computed = Computed()
    computed.go_on.clear()
    kept = computed.kept()

    async def both() -> tuple[Any, Any]:
        first = asyncio.create_task(kept.of("c"))
        await asyncio.sleep(0)
        kept.outdated("c")
        second = asyncio.create_task(kept.of("c"))
        await asyncio.sleep(0)
        computed.go_on.set()
        return await first, await second

    assert sorted(asyncio.run(both())) == [1, 2]


def test_what_cannot_be_computed_says_so_to_everybody_and_is_tried_again() -> None:
    computed = Computed()
    computed.fault = NotThere("there is no campaign 'c'", fix="name another")
    kept = computed.kept()

    async def two() -> list[Any]:
        return list(await asyncio.gather(kept.of("c"), kept.of("c"), return_exceptions=True))

    assert [type(one) for one in asyncio.run(two())] == [NotThere, NotThere]
    computed.fault = None
    assert asked(kept) == 1


def test_who_goes_away_takes_the_report_from_nobody() -> None:
    computed = Computed()
    computed.go_on.clear()
    kept = computed.kept()

    async def one_leaves() -> Any:
        leaves, stays = asyncio.create_task(kept.of("c")), asyncio.create_task(kept.of("c"))
        await asyncio.sleep(0)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        computed.go_on.set()
        return await stays

    assert asyncio.run(one_leaves()) == 1


def asked(kept: KeptReports) -> Any:
    return asyncio.run(kept.of("c"))
