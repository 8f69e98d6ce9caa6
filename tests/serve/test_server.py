"""A process that only serves makes the interpreter's own pauses short."""

from __future__ import annotations

import subprocess
import sys

PAUSES = """
import gc, sys, time
import llmops.serve.app
from llmops.serve.server import shorten_pauses
assert sys.getswitchinterval() >= 0.005
def collection():
    began = time.perf_counter()
    gc.collect()
    return time.perf_counter() - began
gc.collect()
before = min(collection() for _ in range(5))
shorten_pauses()
after = min(collection() for _ in range(5))
print(sys.getswitchinterval(), before, after)
"""


def test_threads_take_short_turns_and_collections_look_at_what_is_new() -> None:
    done = subprocess.run([sys.executable, "-c", PAUSES], capture_output=True, text=True, check=True)
    turn, before, after = map(float, done.stdout.split())
    assert turn == 0.0005
    assert after < before / 5
