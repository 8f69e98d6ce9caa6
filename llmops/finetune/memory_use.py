"""The largest memory this process has held since a mark: GPU memory, or resident memory on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch

from llmops.processes import peak_resident


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak; where Linux does not allow it for host memory, the process's whole life counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        # 5 resets the high-water mark of resident memory; see proc(5), /proc/pid/clear_refs.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory(device: torch.device) -> int:
    """Bytes: reserved by torch's allocator on a GPU, resident in the process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_resident()
