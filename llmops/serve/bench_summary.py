"""What a load showed: percentiles with their intervals, the share within an objective, and who was the slow one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmops.errors import InputError, nearest
from llmops.serve.bench_load import Loaded, Sent
from llmops.stats import Quantile, wilson

SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)
CONFIDENCE = 0.95
_LATE_S = 0.005  # a lag that is never the server's
_LATE_SHARE = 0.1  # of the median time to the first token
_BUSY = 0.9  # of a processor
_BLOCK_S = 1.0  # requests this near share a queue
_RESAMPLES = 1000
KINDS = {"ttft": "time to the first token", "tpot": "time per token after it", "e2e": "time to the last token"}


@dataclass(frozen=True, slots=True)
class Objective:
    """What a good answer keeps to: seconds by `ttft`, `tpot`, `e2e`."""

    at_most: Mapping[str, float] = field(default_factory=dict)

    def met(self, sent: Sent) -> bool:
        """It was answered whole and within all bounds; an answer of one token has no time per token to miss."""
        if sent.error is not None or sent.to_first is None:
            return False
        took = {"ttft": sent.to_first, "tpot": sent.per_token or 0.0, "e2e": sent.latency}
        return all(took[name] <= bound for name, bound in self.at_most.items())


@dataclass(frozen=True, slots=True)
class Point:
    """A percentile in seconds; an end of its interval is None where too few requests lie beyond it."""

    share: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One target under one load.

    Attributes:
        rate: requests a second that were to be sent.
        failed: by what was wrong.
        achieved: answers a second, from the start to the last of them.
        good: answers a second that kept to the objective; `attained` is their share of all requests that were to be
            sent, with `attained_low` and `attained_high` its interval.
        times: percentiles of `ttft`, `tpot`, `e2e`, `gap` (between two pieces) and `lag` (the generator's own).
        busy: share of a processor that the generator used.
        bottleneck: why the figures may be the generator's and not the server's; None where they are not.
    """

    rate: float
    requests: int
    answered: int
    failed: Mapping[str, int]
    seconds: float
    achieved: float
    good: float
    attained: float
    attained_low: float
    attained_high: float
    prompt_tokens: int
    tokens: int
    tokens_per_s: float
    times: Mapping[str, tuple[Point, ...]]
    busy: float
    bottleneck: str | None


def objective(text: str) -> Objective:
    """From `ttft=500ms,tpot=50ms,e2e=2s`; raises InputError."""
    bounds = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)(ms|s)", part)
        if not found or found[1] not in KINDS:
            name = part.partition("=")[0]
            raise InputError(
                f"{part!r} is no objective{nearest(name, KINDS)}", fix="write for example ttft=500ms,tpot=50ms,e2e=2s"
            )
        bounds[found[1]] = float(found[2]) * (0.001 if found[3] == "ms" else 1.0)
    return Objective(bounds)


def summarised(loads: Sequence[Loaded], rate: float, wanted: Objective) -> Summary:
    """All rounds of one target as one."""
    sent = [one for load in loads for one in load.sent]
    answered = [one for one in sent if one.error is None]
    seconds = sum(load.seconds for load in loads)
    good = sum(map(wanted.met, sent))
    times = {name: _points(values) for name, values in times_of(sent).items()}
    low, high = wilson(good, len(sent), CONFIDENCE) if sent else (0.0, 1.0)
    tokens = sum(one.tokens or 0 for one in answered)
    busy = sum(load.busy * load.seconds for load in loads) / seconds if seconds else 0.0
    return Summary(
        rate=rate,
        requests=len(sent),
        answered=len(answered),
        failed=Counter(one.error for one in sent if one.error is not None),
        seconds=seconds,
        achieved=len(answered) / seconds if seconds else 0.0,
        good=good / seconds if seconds else 0.0,
        attained=good / len(sent) if sent else 0.0,
        attained_low=low,
        attained_high=high,
        prompt_tokens=sum(one.prompt_tokens or 0 for one in answered),
        tokens=tokens,
        tokens_per_s=tokens / seconds if seconds else 0.0,
        times=times,
        busy=busy,
        bottleneck=_bottleneck(times, busy),
    )


def times_of(sent: Sequence[Sent]) -> dict[str, list[float]]:
    """Seconds by kind. Of failed requests only the lag counts: how soon an error came is no latency."""
    answered = [one for one in sent if one.error is None]
    return {
        "ttft": [one.to_first for one in answered if one.to_first is not None],
        "tpot": [one.per_token for one in answered if one.per_token is not None],
        "e2e": [one.latency for one in answered],
        "gap": [gap for one in answered for gap in one.gaps],
        "lag": [one.lag for one in sent],
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """By how many seconds the second target is slower at a percentile, with its interval."""

    kind: str
    share: float
    value: float
    low: float
    high: float


def differences(first: Sequence[Loaded], second: Sequence[Loaded], seed: int = 17) -> list[Difference]:
    """Of percentiles of two targets that had the same shots in each round, where both answered.

    Blocks of a second are drawn with replacement, both targets' together: requests of one block met the same load, and
    waited for each other (moving blocks, Künsch 1989, with blocks that do not overlap).
    """
    import numpy as np

    pairs = [
        (turn, one, other)
        for turn, (a, b) in enumerate(zip(first, second, strict=True))
        for one, other in zip(a.sent, b.sent, strict=True)
        if one.error is None and other.error is None
    ]
    found = []
    for kind in ("ttft", "e2e"):
        rows = [
            ((turn, int(one.intended // _BLOCK_S)), *values)
            for turn, one, other in pairs
            if None not in (values := _both(one, other, kind))
        ]
        blocks: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for block, a_s, b_s in rows:
            blocks.setdefault(block, []).append((float(a_s or 0), float(b_s or 0)))
        if not blocks:
            continue
        held = [np.asarray(one) for one in blocks.values()]
        draw = np.random.default_rng(seed)
        drawn = np.empty((_RESAMPLES, 3))
        shares = (0.5, 0.9, 0.99)

        def at(values: np.ndarray, shares: tuple[float, ...] = shares) -> np.ndarray:
            ends = np.quantile(values, shares, axis=0, method="inverted_cdf")
            return ends[:, 1] - ends[:, 0]

        for number in range(_RESAMPLES):
            drawn[number] = at(np.concatenate([held[one] for one in draw.integers(0, len(held), len(held))]))
        value = at(np.concatenate(held))
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
        found += [
            Difference(kind, share, float(value[place]), float(low[place]), float(high[place]))
            for place, share in enumerate(shares)
        ]
    return found


def _both(one: Sent, other: Sent, kind: str) -> tuple[float | None, float | None]:
    return (one.to_first, other.to_first) if kind == "ttft" else (one.latency, other.latency)


def _points(values: Sequence[float]) -> tuple[Point, ...]:
    import numpy as np

    if not values:
        return ()
    ordered = np.sort(np.asarray(values, float))
    points = []
    for share in SHARES:
        quantile = Quantile(ordered, share)
        low, high = quantile.interval(CONFIDENCE)
        points.append(
            Point(share, quantile.value, low if math.isfinite(low) else None, high if math.isfinite(high) else None)
        )
    return tuple(points)


def _bottleneck(times: Mapping[str, tuple[Point, ...]], busy: float) -> str | None:
    lag = {point.share: point.value for point in times["lag"]}
    first = {point.share: point.value for point in times["ttft"]}
    allowed = max(_LATE_S, _LATE_SHARE * first.get(0.5, 0.0))
    if lag and lag[0.99] > allowed:
        return f"1 request in 100 was sent {1000 * lag[0.99]:.0f} ms late or more"
    if busy > _BUSY:
        return f"it used {busy:.0%} of a processor"
    return None
