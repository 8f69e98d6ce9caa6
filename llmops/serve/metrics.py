"""What Prometheus reads: counts, histograms and the gateway's state, in a bounded number of series.

Counting is a few additions per request; prometheus-client writes them out when it is asked. Labels come from the
gateway's file and the registry, never from a key's secret or a prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmops.serve.entry import Entry
from llmops.serve.hooks import Now
from llmops.serve.ledger import LedgerStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histograms' buckets."""
MOST_SERIES = 1000
_MOST_REASONS = 32
_REASON = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,31}")
_OTHER = "other"
_PLACE = ("route", "engine", "version")
_LABELS = (*_PLACE, "reason")
_BREAKER = {"closed": 0, "half-open": 1, "open": 2}
_COUNTS = {
    "cache_hit": ("llmops_cache_hits", "Requests answered from memory."),
    "cache_miss": ("llmops_cache_misses", "Requests that could have been answered from memory."),
    "shadow_left_out": ("llmops_shadow_left_out", "Copies not sent because too many were under way."),
    "retry_refused": ("llmops_retries_refused", "Retries not made because their budget was spent."),
}

Labels = tuple[str, str, str, str]


class _Times:
    """A histogram of seconds."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(SECONDS, seconds)] += 1  # a bucket holds its upper bound
        self.total += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        found, below = [], 0
        for bound, count in zip((*map(repr, SECONDS), "+Inf"), self.buckets, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class _Series:
    """Everything counted under one set of labels."""

    __slots__ = ("cached", "completion", "escalated", "fallbacks", "prompt", "retries", "statuses", "usd")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.prompt = self.completion = self.cached = 0
        self.retries = self.fallbacks = self.escalated = 0
        self.usd = 0.0


_TOTALS = {
    "prompt": ("llmops_prompt_tokens", "Tokens of prompts."),
    "completion": ("llmops_completion_tokens", "Tokens of answers."),
    "cached": ("llmops_cached_prompt_tokens", "Tokens of prompts that the engine had in its prefix cache."),
    "retries": ("llmops_retries", "Other replicas that were tried."),
    "fallbacks": ("llmops_fallbacks", "Requests answered by an engine of the route's fallback."),
    "escalated": ("llmops_escalations", "Requests of a cascade that went on to the large model."),
    "usd": ("llmops_cost_usd", "US dollars that the requests' share of their replicas cost."),
}


class Metrics:
    """The metrics of one gateway."""

    def __init__(
        self, ledger: Callable[[], LedgerStatus], *, keys_problem: Callable[[], object] = lambda: None
    ) -> None:
        """Ask `ledger` how far it is behind, and `keys_problem` for why the keys' file cannot be read, when read."""
        self._ledger = ledger
        self._keys_problem = keys_problem
        self._series: dict[Labels, _Series] = {}
        self._whole: dict[tuple[str, str, str], _Times] = {}
        self._first: dict[tuple[str, str, str], _Times] = {}
        self._copies: Counter[tuple[str, str]] = Counter()
        self._reasons: dict[str, str] = {}

    def observe(self, entry: Entry) -> None:
        """Count one request; a copy for a shadow counts among the copies alone, so that clients' times stay theirs."""
        route, engine, version = entry.route or "", entry.engine or "", entry.version or ""
        if entry.shadow_of is not None:
            self._copies[route, engine] += 1
            return
        reason = entry.reason
        labels = (route, engine, version, "" if reason is None else self._kind(reason))
        series = self._series.get(labels)
        if series is None:
            series, labels = self._begun(labels)
        series.statuses[entry.status] = series.statuses.get(entry.status, 0) + 1
        series.prompt += entry.prompt_tokens or 0
        series.completion += entry.completion_tokens or 0
        series.cached += entry.cached_tokens or 0
        series.usd += entry.usd or 0.0
        if entry.retries:
            series.retries += entry.retries
        if entry.fallback:
            series.fallbacks += 1
        if entry.escalated:
            series.escalated += 1
        if entry.status == 200:
            place = labels[:3]
            if entry.total is not None:
                self._whole[place].add(entry.total)
            if entry.first_token is not None:
                self._first[place].add(entry.first_token)

    def text(self, now: Now) -> bytes:
        """All of it, in the text format 0.0.4."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(_Reading(lambda: self._collect(now)))
        return generate_latest(registry)

    def _kind(self, reason: str) -> str:
        """What kind of reason it is, without the numbers behind its colon: of a bounded number."""
        word = reason.partition(":")[0]
        known = self._reasons.get(word)
        if known is None:
            fits = len(self._reasons) < _MOST_REASONS and _REASON.fullmatch(word)
            if not fits:
                return _OTHER
            known = self._reasons[word] = word
        return known

    def _begun(self, labels: Labels) -> tuple[_Series, Labels]:
        if len(self._series) >= MOST_SERIES:
            labels = (_OTHER, _OTHER, _OTHER, _OTHER)
        series = self._series.setdefault(labels, _Series())
        self._whole.setdefault(labels[:3], _Times())
        self._first.setdefault(labels[:3], _Times())
        return series, labels

    # ── written out ────────────────────────────────────────────────────────────────────────────────────────────────

    def _collect(self, now: Now) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("llmops_requests", "Requests that ended.", labels=(*_LABELS, "status"))
        for labels, series in self._series.items():
            for status, count in series.statuses.items():
                requests.add_metric((*labels, str(status)), count)
        yield requests
        for field, (name, told) in _TOTALS.items():
            family = CounterMetricFamily(name, told, labels=_LABELS)
            for labels, series in self._series.items():
                family.add_metric(labels, getattr(series, field))
            yield family
        for name, told, times in (
            ("llmops_request_seconds", "From a request's arrival to its answer's last byte.", self._whole),
            ("llmops_first_token_seconds", "From a request's arrival to its answer's first byte.", self._first),
        ):
            histogram = HistogramMetricFamily(name, told, labels=_PLACE)
            for place, one in times.items():
                histogram.add_metric(place, buckets=one.cumulated(), sum_value=one.total)
            yield histogram
        copies = CounterMetricFamily("llmops_shadow_copies", "Copies of requests.", labels=("route", "engine"))
        for key, count in self._copies.items():
            copies.add_metric(key, count)
        yield copies
        for what, (name, told) in _COUNTS.items():
            family = CounterMetricFamily(name, told, labels=("route",))
            for (counted, route), count in now.counts.items():
                if counted == what:
                    family.add_metric((route,), count)
            yield family
        yield from self._state(now)
        yield from self._records()
        yield GaugeMetricFamily("llmops_draining", "1 while no new requests are taken.", value=now.draining)
        yield GaugeMetricFamily("llmops_in_flight", "Requests that are being answered.", value=now.under_way)

    def _state(self, now: Now) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        queue = GaugeMetricFamily("llmops_queue", "Requests that wait for a replica.", labels=("engine",))
        for engine in dict.fromkeys([*(one.engine for one in now.replicas), *now.waiting]):
            queue.add_metric((engine,), now.waiting.get(engine, 0))
        yield queue
        names = ("engine", "replica")
        under_way = GaugeMetricFamily("llmops_replica_in_flight", "Requests under way at a replica.", labels=names)
        ready = GaugeMetricFamily("llmops_replica_ready", "1 where a replica can be asked.", labels=names)
        breaker = GaugeMetricFamily(
            "llmops_replica_breaker", "0: requests go through, 1: one is tried, 2: none does.", labels=names
        )
        for one in now.replicas:
            place = (one.engine, str(one.number))
            under_way.add_metric(place, one.in_flight)
            ready.add_metric(place, one.state == "ready")
            breaker.add_metric(place, _BREAKER[one.breaker])
        yield from (under_way, ready, breaker)

    def _records(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        ledger = self._ledger()
        yield GaugeMetricFamily(
            "llmops_ledger_behind_rows", "Rows of the ledger that wait in memory.", value=ledger.behind
        )
        yield GaugeMetricFamily(
            "llmops_ledger_writable", "0 while the ledger's database cannot be written.", value=ledger.problem is None
        )
        yield CounterMetricFamily(
            "llmops_ledger_dropped_rows", "Rows lost because too many waited.", value=ledger.dropped
        )
        yield CounterMetricFamily(
            "llmops_ledger_refused_rows", "Rows that the database did not take.", value=ledger.refused
        )
        yield GaugeMetricFamily(
            "llmops_keys_readable", "0 while the file of keys cannot be read.", value=self._keys_problem() is None
        )


class _Reading:
    """What prometheus-client calls a collector."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect
