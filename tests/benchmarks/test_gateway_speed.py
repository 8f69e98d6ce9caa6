"""What the gateway takes of time and memory with keys, limits, ledger and metrics on, before an engine that waits.

One core is the gateway's, another that of the engine and the clients. Figures are differences and ratios of one run,
each side in turn, since machines drift.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.litellm_proxy import KEY, installed, proxy
from tests.benchmarks.random_tiny import make_random_tiny
from tests.local_server import end, free_port, local_server
from tests.serve.vllm_server import served_by_vllm

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

OURS, OTHERS = {0}, {1}
ROUNDS = 5
SECONDS = 4
REQUESTS = 200_000
LLMOPS = Path(sys.executable).parent / "llmops"


@dataclass
class Side:
    """Something that is asked."""

    name: str
    url: str
    key: str = "none"
    model: str = "m"

    def asked(
        self, clients: int, seconds: float = SECONDS, *, stream: bool = False, cores: set[int] = OTHERS
    ) -> dict[str, float]:
        command = [sys.executable, "-m", "tests.benchmarks.gateway_load", "load", self.url, "--key", self.key]
        command += ["--clients", str(clients), "--seconds", str(seconds), "--model", self.model]
        command += ["--stream"] if stream else []
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        found: dict[str, float] = json.loads(done.stdout)
        print(f"\n{self.name}, {clients} clients: " + ", ".join(f"{name} {value:.5g}" for name, value in found.items()))
        assert found["failed"] == 0
        return found


@dataclass
class Setting:
    engine: Side
    gateway: Side
    process: int

    def memory_mb(self) -> float:
        """Resident, of the gateway with all it has started."""
        import psutil

        process = psutil.Process(self.process)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    folder = tmp_path_factory.mktemp("gateway-speed")
    with ExitStack() as stack:
        upstream = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.gateway_load", "upstream"],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, OTHERS),
        )
        stack.callback(end, upstream)
        assert upstream.stdout is not None
        stack.callback(upstream.stdout.close)
        engine = f"http://127.0.0.1:{int(upstream.stdout.readline())}"
        gateway, process = stack.enter_context(gateway_before(engine, "served", folder, cores=OURS))
        yield Setting(Side("engine", engine), gateway, process)


@contextmanager
def gateway_before(engine: str, model: str, folder: Path, *, cores: set[int]) -> Iterator[tuple[Side, int]]:
    """A gateway with keys, limits, ledger and metrics before one engine, and its process."""
    port = free_port()
    file = folder / "gateway.yaml"
    file.write_text(
        f"listen: 127.0.0.1:{port}\n"
        f"engines: {{up: {{url: '{engine}/v1', model: {model}, usd_per_gpu_hour: 2.0}}}}\n"
        "routes: {m: {policy: direct, engine: up}}\n"
        f"keys: {{file: {folder}/keys.json}}\n"
    )
    environment = {**os.environ, "LLMOPS_HOME": str(folder / "home")}
    limits = ["--rpm", "100000000", "--tpm", "100000000000", "--budget-usd", "1000000"]
    made = subprocess.run(
        [LLMOPS, "serve", "key", "create", "load", *limits, "--gateway", str(file), "--json"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    url, log = f"http://127.0.0.1:{port}", folder / "gateway.log"
    with local_server(
        [LLMOPS, "serve", str(file)], ready=f"{url}/ready", log=log, environment=environment, cores=cores
    ) as process:
        yield Side("gateway", url, json.loads(made.stdout)["secret"]), process.pid


def added(rounds: list[tuple[dict[str, float], dict[str, float]]], what: str) -> float:
    """Milliseconds that the gateway adds: the median over rounds."""
    value = 1000 * statistics.median(through[what] - alone[what] for alone, through in rounds)
    print(f"\nadded to {what}: {value:.2f} ms (median of {len(rounds)} rounds)")
    return value


def test_at_16_clients_it_adds_at_most_3_ms_and_8_ms_to_the_slowest_hundredth(setting: Setting) -> None:
    setting.gateway.asked(16, 2)
    rounds = [(setting.engine.asked(16), setting.gateway.asked(16)) for _ in range(ROUNDS)]
    assert added(rounds, "whole_p50") <= 3
    assert added(rounds, "whole_p99") <= 8


def test_streams_begin_at_most_3_ms_later_and_their_tokens_come_at_most_half_a_ms_later(setting: Setting) -> None:
    setting.gateway.asked(16, 2, stream=True)
    rounds = [(setting.engine.asked(16, stream=True), setting.gateway.asked(16, stream=True)) for _ in range(ROUNDS)]
    assert added(rounds, "first_p50") <= 3
    assert added(rounds, "way_p50") <= 0.5


def test_one_core_passes_on_600_requests_a_second_and_6_times_those_of_litellm(
    setting: Setting, tmp_path: Path
) -> None:
    python = installed()
    ours = statistics.median(setting.gateway.asked(64)["per_s"] for _ in range(ROUNDS))
    print(f"\n{ours:.0f} requests/s")
    assert ours >= 600
    if python is None:
        pytest.skip("LiteLLM's proxy cannot be installed here; the 600 requests/s were checked")
    with proxy(python, tmp_path, setting.engine.url, free_port(), OURS) as url:
        theirs = Side("litellm", url, KEY)
        theirs.asked(16, 2)
        ratios = [setting.gateway.asked(64)["per_s"] / theirs.asked(64)["per_s"] for _ in range(3)]
    print("times those of LiteLLM: " + ", ".join(f"{ratio:.1f}" for ratio in ratios))
    assert statistics.median(ratios) >= 6


def test_memory_stays_flat_and_below_150_mb(setting: Setting) -> None:
    """Over 200,000 requests; the first 20,000 fill what is kept for reuse."""
    done = setting.gateway.asked(64, 10)["count"]
    while done < REQUESTS / 10:
        done += setting.gateway.asked(64, 5)["count"]
    time.sleep(3)
    at_first = setting.memory_mb()
    while done < REQUESTS:
        done += setting.gateway.asked(64, 20)["count"]
    time.sleep(3)
    at_last = setting.memory_mb()
    print(f"\nresident: {at_first:.1f} MB, after {done:.0f} requests {at_last:.1f} MB")
    assert at_last <= 150
    assert at_last <= 1.05 * at_first


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_tiny(tmp_path_factory.mktemp("model"), precision="bfloat16")


@pytest.mark.parametrize("stream", [False, True], ids=["whole answers", "streams"])
@pytest.mark.parametrize("shared", [False, True], ids=["a core of its own", "cores shared with the gateway"])
def test_at_saturation_98_of_100_answers_of_vllm_get_through(
    model: Path, tmp_path: Path, shared: bool, stream: bool
) -> None:
    """64 clients at a real engine. Where it shares its cores, what the gateway takes of them is the engine's loss."""
    core = None if shared else 1
    others = {0, 1} if shared else {0}
    settings: dict[str, Any] = {"length": 256, "precision": "bfloat16", "log": tmp_path / "vllm.log"}
    with (
        served_by_vllm(model, name="tiny", core=core, **settings) as url,
        gateway_before(url, "tiny", tmp_path, cores=others) as (gateway, _),
    ):
        engine = Side("engine", url, model="tiny")
        for side in (engine, gateway):
            side.asked(64, 4, stream=stream, cores=others)
        shares = []
        for _ in range(ROUNDS):
            alone = engine.asked(64, 10, stream=stream, cores=others)["per_s"]
            shares.append(gateway.asked(64, 10, stream=stream, cores=others)["per_s"] / alone)
    print("share of the engine's own throughput: " + ", ".join(f"{share:.3f}" for share in shares))
    assert statistics.median(shares) >= 0.98
