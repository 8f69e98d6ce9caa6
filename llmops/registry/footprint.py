"""What a training took: operations as counted, and energy as far as time and data sheets tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmops.errors import InputError
from llmops.hardware import gpu_named
from llmops.records import RunManifest

PUE = 1.67
"""Energy of a data centre over that of its machines. Green Algorithms' default: Lannelongue et al. 2021,
doi:10.1002/advs.202100707."""
CPU_CORE_WATTS = 12.0
"""Of one busy core of an unknown processor; from the same paper's tool."""
MEMORY_WATTS_PER_GB = 0.3725
"""Of memory, used or not; from the same paper. Here of the memory the run had in use."""

# Largest board power by NVIDIA's data sheets, the SXM form where there are two; by the short name of hardware.py.
WATTS: Mapping[str, float] = {
    "b200": 1000,
    "h200": 700,
    "h100-sxm": 700,
    "h100-pcie": 350,
    "a100-80": 400,
    "a100-40": 400,
    "l40s": 350,
    "l4": 72,
    "a10g": 300,
    "rtx4090": 450,
    "rtx3090": 350,
    "v100-32": 300,
    "v100-16": 300,
    "t4": 70,
}


@dataclass(frozen=True, slots=True)
class Energy:
    """An estimate in kilowatt-hours, and every assumption of it in words."""

    kwh: float
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations of a training run, a multiplication and an addition counting as two; `formula` says how counted."""

    flops: float
    formula: str
    weights: int
    trained_weights: int


def operations(manifest: RunManifest) -> Operations | None:
    """The operations that the run counted; None for a manifest that has none."""
    work = manifest.lineage.get("work")
    return Operations(**work) if work else None


def energy(manifest: RunManifest) -> Energy | None:
    """Measured seconds × stated power × PUE; None where the time or the device is not known.

    Evaluation, data preparation, earlier attempts and the training of the base are not in it.
    """
    seconds = manifest.measured.get("seconds")
    device = manifest.environment.get("device", "")
    if not seconds or not device:
        return None
    world = int(manifest.identity.get("world", 1))
    if device.startswith("CPU"):
        threads = re.search(r"(\d+) threads", device)
        cores = world * int(threads[1] if threads else manifest.identity.get("threads", 1))
        gigabytes = world * manifest.measured.get("peak_bytes", 0.0) / 1e9
        watts = cores * CPU_CORE_WATTS + gigabytes * MEMORY_WATTS_PER_GB
        power = (
            f"{cores} CPU core(s) at {CPU_CORE_WATTS:g} W each and {gigabytes:.2f} GB of memory at "
            f"{MEMORY_WATTS_PER_GB:g} W a GB (Lannelongue et al. 2021, for an unknown processor)"
        )
    else:
        try:
            each = WATTS[gpu_named(device).key]
        except (InputError, KeyError):
            return None
        watts = world * each
        power = f"{world} × {device} at its largest board power of {each:g} W (data sheet), the host left out"
    return Energy(
        kwh=watts * seconds / 3.6e6 * PUE,
        assumptions=(
            f"measured time of the updates, {seconds:,.1f} s",
            power,
            f"a data centre that takes {PUE:g} times what its machines take (the same paper's default)",
            "evaluation, data preparation, earlier attempts and the training of the base are not counted",
        ),
    )
