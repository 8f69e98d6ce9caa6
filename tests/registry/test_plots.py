"""Plots are PNG files of what a run did; gaps and single points are drawn, and nothing global is touched."""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.records import Step
from llmops.registry.plots import plots, smoothed


def step(index: int, loss: float = 2.0, validation: float | None = None) -> Step:
    return Step(index, index / 10, loss, 0.5 * loss, 1e-3, 100, 50, 0.1, 10**9, validation)


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_run_has_four_pictures(tmp_path: Path) -> None:
    pyplot = "matplotlib.pyplot" in sys.modules
    made = plots(
        [step(index, 3 / index, 2.0 if index % 20 == 0 else None) for index in range(1, 101)], [5, 9], tmp_path
    )
    assert [path.name for path in made] == ["loss.png", "learning_rate.png", "gradient_norm.png", "lengths.png"]
    assert {size(path) for path in made} == {(1036, 576)}, "7.2 × 4.0 inches at 144 dots"
    assert ("matplotlib.pyplot" in sys.modules) == pyplot, "nothing global is touched"


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([step(1)], id="one update"),
        pytest.param([step(1), step(2, math.nan), step(3, math.inf)], id="values that are not finite"),
        pytest.param([step(1, math.nan)], id="nothing finite at all"),
        pytest.param([step(1, 0.0), step(2, 0.0)], id="all zero"),
        pytest.param([step(1, 1e-6), step(2, 1e6)], id="twelve orders of magnitude"),
    ],
)
def test_odd_runs_are_drawn_without_a_warning(tmp_path: Path, steps: list[Step]) -> None:
    assert len(plots(steps, [7], tmp_path)) == 4


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    assert plots([], [], tmp_path) == []
    assert [path.name for path in plots([], [3, 3_000_000], tmp_path)] == ["lengths.png"]


def test_what_a_method_measures_is_one_picture_with_a_frame_for_each(tmp_path: Path) -> None:
    steps = [replace(step(index), measures={"accuracy": 0.5, "margin": float(index)}) for index in range(1, 6)]
    steps[-1] = replace(steps[-1], validation_measures={"accuracy": 0.75, "margin": 2.0})
    made = plots(steps, [], tmp_path, unit="per pair")
    assert made[-1].name == "measures.png"
    assert size(made[-1]) == (1036, 691), "7.2 × 4.8 inches at 144 dots: two frames"


@given(st.floats(-1e6, 1e6), st.integers(1, 200))
def test_smoothing_leaves_a_constant_as_it_is(value: float, count: int) -> None:
    assert smoothed([value] * count) == pytest.approx([value] * count, abs=1e-3)


def test_smoothing_does_not_lag_behind_a_straight_line() -> None:
    line = [float(place) for place in range(600)]
    assert smoothed(line) == pytest.approx(line)


@given(st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), max_size=300))
def test_smoothing_stays_within_the_values_and_keeps_gaps(values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    means = smoothed(values)
    assert [math.isnan(mean) for mean in means] == [math.isnan(value) for value in values]
    for mean in means:
        if not math.isnan(mean):
            assert min(finite) - 1e-6 <= mean <= max(finite) + 1e-6
