"""Energy is measured time × stated power × PUE, with every assumption said; what is not known is not estimated."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.hardware import KNOWN_GPUS
from llmops.registry.card import CardFacts, card
from llmops.registry.footprint import WATTS, energy, operations
from tests.registry.artifacts import manifest_of


def test_a_gpus_power_times_time_times_pue(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path, environment={"device": "NVIDIA H100 80GB HBM3"}, measured={"seconds": 3600.0}, identity={"world": 4}
    )
    found = energy(manifest)
    assert found is not None
    assert found.kwh == pytest.approx(4 * 0.700 * 1 * 1.67)
    assert any("700 W" in one for one in found.assumptions)


def test_cores_and_memory_of_a_cpu(tmp_path: Path) -> None:
    manifest = manifest_of(
        tmp_path, environment={"device": "CPU, 2 threads"}, measured={"seconds": 1800.0, "peak_bytes": 4e9}
    )
    found = energy(manifest)
    assert found is not None
    # Green Algorithms' formula: runtime × (cores × 12 W + memory × 0.3725 W/GB) × PUE.
    assert found.kwh == pytest.approx(0.5 * (2 * 12 + 4 * 0.3725) / 1000 * 1.67)


@pytest.mark.parametrize(
    ("environment", "measured"),
    [({}, {"seconds": 1.0}), ({"device": "CPU, 1 threads"}, {}), ({"device": "Abacus"}, {"seconds": 1.0})],
)
def test_without_time_or_a_known_device_there_is_no_estimate(
    tmp_path: Path, environment: dict[str, str], measured: dict[str, float]
) -> None:
    manifest = manifest_of(tmp_path, environment=environment, measured=measured)
    assert energy(manifest) is None
    assert "Energy is not estimated" in card(CardFacts(manifest))


def test_every_known_gpu_has_a_power() -> None:
    assert WATTS.keys() == KNOWN_GPUS.keys()


def test_operations_are_those_the_run_counted(tmp_path: Path) -> None:
    assert operations(manifest_of(tmp_path)) is None
    work = {"flops": 1.5e15, "formula": "6N a token", "weights": 10, "trained_weights": 4}
    manifest = manifest_of(tmp_path, lineage={"work": work})
    found = operations(manifest)
    assert found is not None
    assert found.flops == 1.5e15
    assert "1.5e+15 operations (FLOPs)" in card(CardFacts(manifest))
