"""Training against TRL's SFTTrainer on the same model, rows and batch, each side in a process of its own.

`make benchmark` prints both sides; figures are ratios of one run, since machines drift.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.random_tiny import make_random_tiny

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

E2E = Path(__file__).parents[3] / "shared" / "data" / "e2e" / "devset.csv"
ROWS = 1280
ROUNDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of builtin:tiny with random weights, its tokenizer, and rows of E2E."""
    if not E2E.is_file():
        pytest.skip(f"the E2E data is not at {E2E}")
    made = tmp_path_factory.mktemp("speed")
    make_random_tiny(made / "base", precision="float32")
    with E2E.open(newline="", encoding="utf-8") as file, (made / "rows.jsonl").open("w") as rows:
        for number, row in enumerate(csv.DictReader(file)):
            if number < ROWS:
                rows.write(json.dumps({"prompt": row["mr"], "completion": row["ref"]}) + "\n")
    return made


@pytest.fixture(scope="module")
def rounds(folder: Path) -> list[dict[str, dict[str, float]]]:
    """Every side once a round, in turn."""
    return [{side: measure(side, folder) for side in ("trl", "unpacked", "packed")} for _ in range(ROUNDS)]


def measure(side: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.sft_speed", side, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout.rpartition("RESULT ")[2])
    print(f"\n{side}: " + ", ".join(f"{key} {value:,.4g}" for key, value in found.items()))
    return found


def ratio(rounds: list[dict[str, dict[str, float]]], key: str, ours: str, theirs: str) -> float:
    value = statistics.median(one[ours][key] / one[theirs][key] for one in rounds)
    print(f"\n{key}: {ours} / {theirs} = {value:.2f} (median of {len(rounds)})")
    return value


def test_unpacked_tokens_per_second_are_1_6_times_those_of_trl(rounds: list[dict[str, dict[str, float]]]) -> None:
    assert ratio(rounds, "tokens_per_s", "unpacked", "trl") >= 1.6


def test_peak_memory_is_at_most_that_of_trl(rounds: list[dict[str, dict[str, float]]]) -> None:
    assert ratio(rounds, "peak_bytes", "unpacked", "trl") <= 1.0


def test_packing_gives_1_25_times_the_trained_tokens_per_second(rounds: list[dict[str, dict[str, float]]]) -> None:
    assert ratio(rounds, "trained_per_s", "packed", "unpacked") >= 1.25


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [(["--help"], 0.35), (["plan", "recipes/e2e-full.yaml"], 1.0)],
    ids=["help", "plan"],
)
def test_the_command_line_answers_at_once(arguments: list[str], seconds: float) -> None:
    if not E2E.is_file():
        pytest.skip(f"the E2E data is not at {E2E}")
    times = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run(
            [Path(sys.executable).parent / "llmops", *arguments],
            env={**os.environ, "E2E": str(E2E.parent)},
            capture_output=True,
            check=False,
        )
        times.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
    print(f"\nllmops {' '.join(arguments)}: median {statistics.median(times):.2f} s")
    assert statistics.median(times) <= seconds
