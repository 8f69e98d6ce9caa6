"""What a vLLM server's log says: how far its start is, and why it ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_TAIL_BYTES = 64 << 10

_PHASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r"non-default args", "vLLM is loaded"),
        (r"Initializing a V\d LLM engine", "the engine begins"),
        (r"Starting to load model", "loading weights"),
        (r"Loading (?:safetensors|pt) checkpoint shards:\s+(\d+)% Completed", "loading weights, {} %"),
        (r"Loading weights took ([\d.]+) seconds", "weights loaded in {} s"),
        (r"torch\.compile takes ([\d.]+) s", "compiled in {} s"),
        (r"Compiling a graph", "compiling"),
        (r"(?:GPU|CPU) KV cache size: ([\d,]+) tokens", "room for {} tokens of keys and values"),
        (r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x", "{} requests of full length at a time"),
        (r"Capturing CUDA graphs.*?(\d+)%", "capturing CUDA graphs, {} %"),
        (r"Graph capturing finished in (\d+) secs", "CUDA graphs captured in {} s"),
        (r"Starting vLLM (?:API )?server", "listening"),
    )
)

_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|No available memory for the cache blocks|Cannot allocate memory"
    r"|is larger than the available KV cache memory|MemoryError|DefaultCPUAllocator|is less than desired GPU memory",
    re.IGNORECASE,
)
_ERROR = re.compile(r"(?:\b\w*(?:Error|Exception)\b: .+|error: .+)$")
_PREFIX = re.compile(
    r"^(?:\(\w+ (?:pid=)?\d+\)\s*)?(?:(?:INFO|ERROR|WARNING|CRITICAL)\s+[\d-]+ [\d:.]+ \[[^\]]*\]\s*)?"
)


def phase(line: str) -> str | None:
    """What a line says of the start's progress, in few words; None where it says nothing of it."""
    for pattern, said in _PHASES:
        if found := pattern.search(line):
            return said.format(*found.groups())
    return None


def why(lines: Sequence[str], status: int | None) -> str:
    """Why a server ended, from the last lines of its log and its exit status, in one sentence.

    Args:
        status: 128 + n where signal n ended it; None where it did not end.
    """
    bare = [_PREFIX.sub("", line.strip()) for line in lines]
    if memory := next((line for line in reversed(bare) if _MEMORY.search(line)), None):
        return f"out of memory: {_short(memory)}"
    if status == 137:
        return "killed by signal 9: by the system when memory runs out, else by somebody"
    errors = [line for line in bare if _ERROR.search(line)]
    # Python's last words on a signal, of whichever process: what others say afterwards is that it is gone.
    if fatal := next((line for line in bare if line.startswith("Fatal Python error: ")), None):
        return _short(fatal)
    # The first one is the cause, what follows is who noticed; but a traceback's chain ends with the sum of it.
    root = [
        line for line in errors if "Engine core initialization failed" not in line and "EngineDeadError" not in line
    ]
    ended = "it ended" if status is None else f"killed by signal {status - 128}" if status > 128 else f"status {status}"
    if root or errors:
        return f"{_short((root or errors)[-1])} ({ended})"
    last = next((line for line in reversed(bare) if line), "")
    return f"{ended}{f': {_short(last)}' if last else ', and its log is empty'}"


def tail(log: Path, *, start: int = 0) -> list[str]:
    """The last lines of a log, of what was written from byte `start` on; none where it cannot be read."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start if start <= end else 0, end - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def new_lines(log: Path, place: int) -> tuple[list[str], int]:
    """The whole lines written from byte `place` on, and where the next ones will begin."""
    try:
        with log.open("rb") as file:
            file.seek(place)
            written = file.read()
    except OSError:
        return [], place
    whole = written[: written.rfind(b"\n") + 1]
    return whole.decode("utf-8", errors="replace").replace("\r", "\n").splitlines(), place + len(whole)


def _short(line: str) -> str:
    return line if len(line) <= 300 else f"{line[:297]}…"
