"""Freed memory stays with the process while it trains, and goes back to the system afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from llmops.finetune.heap import kept_heap

def resident_mib():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

def passes():
    blocks = [np.ones(2 << 20, dtype=np.float64) for _ in range(12)]  # 16 MiB each
    del blocks

passes()
before = resident_mib()
with kept_heap(on_cpu=sys.argv[1] == "cpu"):
    passes()
    within = resident_mib()
print(within - before, resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other heaps")
@pytest.mark.parametrize(("device", "keeps"), [("cpu", True), ("cuda", False)])
def test_the_heap_is_kept_within_and_given_back_after(device: str, keeps: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, device], capture_output=True, text=True, check=True)
    within, after = map(int, done.stdout.split())
    assert (within > 150) is keeps
    assert after < 30
