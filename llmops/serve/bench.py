"""A load test from its warm-up to its figures: one target or two in turns, at a rate or up to the largest it bears."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from llmops.errors import EnvironmentFault
from llmops.events import Listener
from llmops.serve.arrivals import Shot
from llmops.serve.bench_load import Loaded, load
from llmops.serve.bench_summary import Difference, Objective, Summary, differences, summarised

_STEP = 1.1
"""Two rates this near are taken for one."""
_HALVINGS = 6
_DOUBLINGS = 12


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded: an address up to /v1, the key it wants, and the model's name where it has another there."""

    url: str
    key: str | None = field(default=None, repr=False)
    model: str | None = None

    def own(self, shots: Sequence[Shot]) -> Sequence[Shot]:
        """The shots as this target is asked."""
        if self.model is None:
            return shots
        return [Shot(shot.at, {**shot.body, "model": self.model}) for shot in shots]


@dataclass(frozen=True, slots=True)
class Benched:
    """One target's rounds and what they showed."""

    url: str
    loads: tuple[Loaded, ...]
    summary: Summary


@dataclass(frozen=True, slots=True)
class Found:
    """The largest rate that kept to the objective.

    Attributes:
        rate: requests a second; 0 where even the smallest tried did not.
        trials: all that was tried, in that order.
        open_ended: a larger one may do; the generator could not send it, or it was not tried.
    """

    rate: float
    trials: tuple[Summary, ...]
    open_ended: bool


Plan = Callable[[float, float, int], Sequence[Shot]]
"""Shots for a rate, so many seconds, and a seed."""


async def compared(
    targets: Sequence[Target],
    plan: Plan,
    *,
    rate: float,
    seconds: float,
    warmup_s: float,
    rounds: int,
    seed: int,
    wanted: Objective,
    listener: Listener,
    timeout_s: float = 600.0,
    most_open: int = 4096,
) -> tuple[list[Benched], list[Difference]]:
    """Load each target with the same shots, in turns, the order turned round each time (A B, B A, …).

    Warm-up requests come before each target's first round and are counted nowhere.

    Raises:
        EnvironmentFault: a target answers nothing of its warm-up.
    """
    if warmup_s > 0:
        for target in targets:
            listener.say(f"warming up {target.url} for {warmup_s:g} s")
            warm = await load(
                target.url,
                target.own(plan(rate, warmup_s, seed + 10_000)),
                key=target.key,
                timeout_s=timeout_s,
                most_open=most_open,
            )
            _answers(target, warm)
    loads: dict[int, list[Loaded]] = {number: [] for number in range(len(targets))}
    for turn in range(rounds):
        shots = plan(rate, seconds / rounds, seed + turn)
        order = range(len(targets)) if turn % 2 == 0 else reversed(range(len(targets)))
        for number in order:
            what = f"requests, round {turn + 1} of {rounds}" + (f", target {number + 1}" if len(targets) > 1 else "")
            loads[number].append(
                await load(
                    targets[number].url,
                    targets[number].own(shots),
                    key=targets[number].key,
                    timeout_s=timeout_s,
                    most_open=most_open,
                    heard=_telling(listener, what, len(shots)),
                )
            )
    benched = [
        Benched(target.url, tuple(loads[number]), summarised(loads[number], rate, wanted))
        for number, target in enumerate(targets)
    ]
    return benched, differences(loads[0], loads[1]) if len(targets) == 2 else []


async def find_largest(
    trial: Callable[[float], Awaitable[Summary]], start: float, *, share: float, largest: float = float("inf")
) -> Found:
    """The largest rate at which at least `share` of all requests keep to the objective, within a tenth.

    Doubles the rate from `start` while that holds, then halves the range between (in proportion); halves it first
    where already `start` is too much. A rate that the generator itself could not send ends the search.
    """
    trials: list[Summary] = []

    async def holds(rate: float) -> bool:
        trials.append(await trial(rate))
        return trials[-1].attained >= share

    good, bad = 0.0, None
    rate = min(start, largest)
    for _ in range(_DOUBLINGS):
        held = await holds(rate)
        if held:
            good = rate
        else:
            bad = rate
        if trials[-1].bottleneck is not None and not held:
            return Found(good, tuple(trials), open_ended=True)
        if not held or rate >= largest:
            break
        rate = min(2 * rate, largest)
    if not good and bad is not None:
        for _ in range(_HALVINGS):
            rate = bad / 2
            if await holds(rate):
                good = rate
                break
            bad = rate
        if not good:
            return Found(0.0, tuple(trials), open_ended=False)
    if bad is None:
        return Found(good, tuple(trials), open_ended=True)
    while bad / good > _STEP:
        rate = (good * bad) ** 0.5
        if await holds(rate):
            good = rate
        else:
            bad = rate
    return Found(good, tuple(trials), open_ended=False)


async def largest_load(
    target: Target,
    plan: Plan,
    *,
    start: float,
    seconds: float,
    share: float,
    seed: int,
    wanted: Objective,
    listener: Listener,
    timeout_s: float = 600.0,
    most_open: int = 4096,
    settle_s: float = 1.0,
) -> Found:
    """`find_largest` on a real target; `settle_s` of rest lie between two trials."""

    async def trial(rate: float) -> Summary:
        shots = plan(rate, seconds, seed)
        loaded = await load(target.url, shots, key=target.key, timeout_s=timeout_s, most_open=most_open)
        summary = summarised([loaded], rate, wanted)
        listener.say(f"{rate:.2f} requests/s: {summary.attained:.1%} within the objective")
        await asyncio.sleep(settle_s)
        return summary

    return await find_largest(trial, start, share=share)


def _telling(listener: Listener, what: str, total: int) -> Callable[[int], None]:
    return lambda done: listener.advance(what, done, total)


def _answers(target: Target, warm: Loaded) -> None:
    failed = [one.error for one in warm.sent if one.error]
    if warm.sent and len(failed) == len(warm.sent):
        raise EnvironmentFault(
            f"{target.url} answered none of {len(failed)} requests: {failed[0]}",
            fix="see that it is up, has the model of --model, and that --api-key-env names its key",
        )
