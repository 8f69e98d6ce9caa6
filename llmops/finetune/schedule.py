"""The learning rate of every update: pure arithmetic over the recipe's `schedule:` section."""

from __future__ import annotations

import math

from llmops.finetune.recipe import Schedule

_WSD_FALL = 0.2
"""Share of all updates over which `wsd` falls (Hägele et al. 2024, arXiv:2405.18392, use 0.1 to 0.2)."""


def warmup_updates(schedule: Schedule, total: int) -> int:
    """Updates during which the rate rises; at least one update stays at or after the peak."""
    return min(round(schedule.warmup * total), max(total - 1, 0))


def learning_rate_factor(schedule: Schedule, update: int, total: int) -> float:
    """Share of the peak learning rate that update number `update` (from 1 to `total`) is made with.

    Rises linearly as `update / (warmup + 1)`, so that the first update moves the weights
    and the first after the warm-up has the peak; then falls by `shape` to `floor`, which the
    last update reaches.
    """
    if not 1 <= update <= total:
        raise ValueError(f"update {update} is outside 1 to {total}")
    warmup = warmup_updates(schedule, total)
    if update <= warmup:
        return update / (warmup + 1)
    after = total - warmup - 1
    progress = (update - warmup - 1) / after if after else 0.0
    match schedule.shape:
        case "constant":
            return 1.0
        case "linear":
            fallen = progress
        case "cosine":
            fallen = (1 - math.cos(math.pi * progress)) / 2
        case "wsd":
            fallen = max(0.0, (progress - (1 - _WSD_FALL)) / _WSD_FALL)
    return 1.0 - (1.0 - schedule.floor) * fallen
