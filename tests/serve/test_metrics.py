"""What Prometheus reads is what was counted, in names it accepts, and in a number of series that has an end."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmops.serve.hooks import Now, ReplicaNow
from llmops.serve.ledger import LedgerStatus
from llmops.serve.metrics import MOST_SERIES, SECONDS, Metrics
from tests.local_server import free_port
from tests.patience import wait_until
from tests.serve.entries import an_entry

NOW = Now(
    draining=False,
    under_way=3,
    replicas=(
        ReplicaNow("small", 0, "http://x", "ready", "", 2, "closed"),
        ReplicaNow("small", 1, "http://y", "failed", "it crashed", 0, "open"),
    ),
    waiting={"small": 4},
    counts={("cache_hit", "auto"): 5, ("cache_miss", "auto"): 2, ("retry_refused", "auto"): 1},
)


def counting() -> Metrics:
    return Metrics(lambda: LedgerStatus(behind=7, dropped=2, refused=1, problem="the disk is full"))


def read(metrics: Metrics, now: Now = NOW) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, read by prometheus-client's own parser."""
    families = text_string_to_metric_families(metrics.text(now).decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


PLACE = {"route": "auto", "engine": "small", "version": "models:/m/3"}


def test_what_is_counted_is_what_was_observed() -> None:
    metrics = counting()
    for number in range(4):
        metrics.observe(an_entry(reason=f"length: about {number} tokens", retries=1, fallback=True, total=0.1))
    metrics.observe(an_entry(reason="length: about 9 tokens", status=503, usd=None, prompt_tokens=None, total=9.0))
    metrics.observe(an_entry(shadow_of="x", engine="large"))
    found = read(metrics)
    labels = {**PLACE, "reason": "length"}
    assert value(found, "llmops_requests_total", **labels, status="200") == 4
    assert value(found, "llmops_requests_total", **labels, status="503") == 1
    assert value(found, "llmops_prompt_tokens_total", **labels) == 48
    assert value(found, "llmops_completion_tokens_total", **labels) == 25
    assert value(found, "llmops_cached_prompt_tokens_total", **labels) == 20
    assert value(found, "llmops_retries_total", **labels) == 4
    assert value(found, "llmops_fallbacks_total", **labels) == 4
    assert value(found, "llmops_cost_usd_total", **labels) == pytest.approx(0.004)
    assert value(found, "llmops_request_seconds_count", **PLACE) == 4, "an error's time is no answer's"
    assert value(found, "llmops_request_seconds_sum", **PLACE) == pytest.approx(0.4)
    assert value(found, "llmops_shadow_copies_total", route="auto", engine="large") == 1


def test_the_buckets_are_those_of_prometheus_clients_own_histogram() -> None:
    from prometheus_client import CollectorRegistry, Histogram

    metrics, registry = counting(), CollectorRegistry()
    theirs = Histogram("h", "h", buckets=SECONDS, registry=registry)
    for seconds in (0.0, 0.005, 0.0050001, 0.1, 0.2, 600.0, 601.0, 1e9):
        metrics.observe(an_entry(total=seconds))
        theirs.observe(seconds)
    found = read(metrics)
    for family in registry.collect():
        for one in family.samples:
            if one.name == "h_bucket":
                assert value(found, "llmops_request_seconds_bucket", **PLACE, le=one.labels["le"]) == one.value


def test_the_gateways_state_is_told_as_it_is_now() -> None:
    found = read(counting())
    assert value(found, "llmops_in_flight") == 3
    assert value(found, "llmops_queue", engine="small") == 4
    assert value(found, "llmops_replica_in_flight", engine="small", replica="0") == 2
    assert value(found, "llmops_replica_ready", engine="small", replica="1") == 0
    assert value(found, "llmops_replica_breaker", engine="small", replica="1") == 2
    assert value(found, "llmops_cache_hits_total", route="auto") == 5
    assert value(found, "llmops_cache_misses_total", route="auto") == 2
    assert value(found, "llmops_ledger_behind_rows") == 7
    assert value(found, "llmops_ledger_dropped_rows_total") == 2
    assert value(found, "llmops_ledger_writable") == 0
    assert value(found, "llmops_keys_readable") == 1
    assert value(found, "llmops_draining") == 0
    assert any(name == "process_resident_memory_bytes" for name, _ in found)


def test_series_have_an_end_whatever_reasons_and_versions_come() -> None:
    metrics = counting()
    many = MOST_SERIES + 100
    for number in range(many):
        metrics.observe(an_entry(version=f"models:/m/{number}", reason=f"because of {number}"))
        metrics.observe(an_entry(reason=f'"}} 1\n{number}'))
    found = read(metrics)
    requests = {labels: count for (name, labels), count in found.items() if name == "llmops_requests_total"}
    assert len(requests) <= MOST_SERIES + 1
    assert sum(requests.values()) == 2 * many
    assert len({dict(labels)["reason"] for labels in requests}) <= 34


def test_no_key_and_no_session_is_a_label() -> None:
    metrics = counting()
    metrics.observe(an_entry(key="k-secret", session="s-secret", tags=("team=secret",), id="id-secret"))
    assert b"secret" not in metrics.text(NOW)


def test_observing_costs_microseconds() -> None:
    metrics = counting()
    some = [an_entry(reason=f"length: about {number} tokens") for number in range(1000)]
    best = 1.0
    for _ in range(10):  # the best of ten, since others use this machine
        begun = time.perf_counter()
        for one in some:
            metrics.observe(one)
        best = min(best, (time.perf_counter() - begun) / len(some))
    assert best < 20e-6


def a_full_text() -> bytes:
    metrics = counting()
    metrics.observe(an_entry(reason="length: 5"))
    metrics.observe(an_entry(reason=None, route=None, engine=None, version=None, status=401))
    metrics.observe(an_entry(shadow_of="x"))
    return metrics.text(NOW)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: run `make debian`")
    return found


def test_promtool_has_nothing_to_say_against_it() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=a_full_text(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


class Scraped(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(a_full_text())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """The address of a real Prometheus that reads the metrics every second."""
    binary = program("prometheus")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Scraped) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{server.server_address[1]}"]}]}
            ],
        }
        file = tmp_path / "prometheus.yml"
        file.write_text(json.dumps(config))
        port = free_port()
        with (tmp_path / "log").open("w") as log:
            child = subprocess.Popen(
                [binary, f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}",
                 f"--web.listen-address=127.0.0.1:{port}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            child.kill()
            child.wait()
            server.shutdown()


def test_a_real_prometheus_reads_it(prometheus: str) -> None:
    def ask(query: str) -> list[Any]:
        try:
            with urllib.request.urlopen(f"{prometheus}/api/v1/query?query={query}", timeout=5) as answer:
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []

    wait_until(lambda: [one["value"][1] for one in ask("up")] == ["1"])
    found = ask("sum(llmops_requests_total)by(status)")
    assert {one["metric"]["status"]: one["value"][1] for one in found} == {"200": "1", "401": "1"}
    (half,) = ask("histogram_quantile(0.5,sum(llmops_request_seconds_bucket)by(le))")
    assert 0.05 <= float(half["value"][1]) <= 0.1
    assert [one["value"][1] for one in ask("llmops_ledger_behind_rows")] == ["7"]
