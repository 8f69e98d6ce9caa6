"""Answers through vLLM against lm-evaluation-harness's own vLLM model: the same model, prompts and decoding."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.random_tiny import make_random_tiny
from tests.real_vllm import ENVIRONMENT

E2E = Path(__file__).parents[2].parent / "shared" / "data" / "e2e" / "testset_w_refs.csv"
ROUNDS = 3

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of builtin:tiny with random weights, its tokenizer, and the 630 prompts of E2E's test set."""
    if not E2E.is_file():
        pytest.skip(f"the E2E data is not at {E2E}")
    made = tmp_path_factory.mktemp("generation")
    make_random_tiny(made / "model", precision="bfloat16")
    with E2E.open(newline="", encoding="utf-8") as file:
        prompts = list(dict.fromkeys(row["mr"] for row in csv.DictReader(file)))
    (made / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    return made


def measure(side: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.generation_speed", side]
    done = subprocess.run(
        [*command, str(folder / "model"), str(folder / "prompts.jsonl")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    items, tokens = (found[what] / found["seconds"] for what in ("answers", "tokens"))
    print(f"\n{side}: {items:.1f} items/s, {tokens:,.0f} tokens/s")
    return found


def test_at_least_as_many_items_a_second_as_the_harness(folder: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (extra lm-eval)")
    ratios = []
    for _ in range(ROUNDS):
        theirs, ours = measure("theirs", folder), measure("ours", folder)
        assert theirs["answers"] == ours["answers"] == 630
        ratios.append(theirs["seconds"] / ours["seconds"])
    print("ratios of items/s, ours over theirs: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))
    assert statistics.median(ratios) >= 1
