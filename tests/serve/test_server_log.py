"""A server's log is read for people: how far its start is, and why it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.serve.server_log import new_lines, phase, tail, why


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "(EngineCore pid=7) INFO 11-21 09:42:03 [default_loader.py:430] Loading weights took 12.58 seconds",
            "weights loaded in 12.58 s",
        ),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:01<00:01,  1.6it/s]",
            "loading weights, 50 %",
        ),
        (
            "(EngineCore pid=7) INFO 11-21 09:42:03 [kv_cache_utils.py:1330] GPU KV cache size: 442,592 tokens",
            "room for 442,592 tokens of keys and values",
        ),
        ("INFO 11-21 09:42:03 [gpu_model_runner.py:1] Graph capturing finished in 21 secs, took 0.6 GiB",
         "CUDA graphs captured in 21 s"),
        ("INFO 11-21 09:42:03 [loggers.py:1] Avg prompt throughput: 0.0 tokens/s", None),
    ],
)  # fmt: skip
def test_steps_of_a_start_are_told(line: str, said: str | None) -> None:
    assert phase(line) == said


@pytest.mark.parametrize(
    ("lines", "status", "reason"),
    [
        (
            ["INFO x", "(EngineCore pid=9) ERROR 11-21 09:00:00 [core.py:1] torch.OutOfMemoryError: CUDA out of "
             "memory. Tried to allocate 2.00 GiB", "RuntimeError: Engine core initialization failed. See above."],
            1,
            "out of memory: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        ),
        (
            ["ValueError: To serve at least one request with the models's max seq len (131072), 16 GiB KV cache is "
             "needed, which is larger than the available KV cache memory (2.5 GiB)."],
            1,
            "out of memory: ValueError: To serve at least one request with the models's max seq len (131072), 16 GiB "
            "KV cache is needed, which is larger than the available KV cache memory (2.5 GiB).",
        ),
        (
            ["ValueError: Unsupported architecture", "RuntimeError: Engine core initialization failed. See above."],
            1,
            "ValueError: Unsupported architecture (status 1)",
        ),
        (
            ["Fatal Python error: Illegal instruction", "ERROR 11-21 09:00:00 [core.py:1] RuntimeError: cancelled"],
            1,
            "Fatal Python error: Illegal instruction",
        ),
        (["fine"], 137, "killed by signal 9: by the system when memory runs out, else by somebody"),
        (["fine"], 134, "killed by signal 6: fine"),
        ([], 3, "status 3, and its log is empty"),
    ],
)  # fmt: skip
def test_the_cause_is_told_and_not_who_noticed(lines: list[str], status: int, reason: str) -> None:
    assert why(lines, status) == reason


def test_only_whole_lines_are_new_and_each_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nthr")
    lines, place = new_lines(log, 0)
    assert lines == ["one", "two"]
    log.write_bytes(b"one\ntwo\nthree\n")
    assert new_lines(log, place) == (["three"], 14)
    assert new_lines(tmp_path / "none", 5) == ([], 5)


def test_the_tail_begins_where_this_start_did(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"earlier start\nthis start\n")
    assert tail(log, start=14) == ["this start"]
    assert tail(tmp_path / "none") == []
