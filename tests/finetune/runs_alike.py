"""What the loop promises whatever the method: a batch may be split or packed, and a stopped run goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import Interrupted
from llmops.finetune.recipe import Recipe
from tests.finetune.small_runs import Done, Stores, largest_difference, run_here, stop_after

CALM: dict[str, Any] = {"optimizer": {"learning_rate": 1e-4, "epsilon": 1e-6}}
"""A rate at which AdamW does not blow rounding of near-zero gradients up into whole steps."""


def assert_split_makes_no_difference(
    recipe: Callable[..., Recipe],
    split: dict[str, Any],
    base: Path,
    stores: Stores,
    folder: Path,
    *,
    measured_from: int = 0,
    **run: Any,
) -> None:
    """Three updates of whole batches and of `split` ones have equal losses, norms, measures and weights.

    Args:
        recipe: makes one of changes.
        measured_from: the first update of which measures are compared: before it which of two equal rewards is the
            larger may be chance.
        run: what `run_here` takes besides.
    """
    # Packed, an update holds what fits, so both sides pack and differ in how they split the update.
    whole = recipe(batch={"per_device": 8, "packing": "packing" in split}, **CALM, schedule={"steps": 3})
    parts = recipe(batch={"per_device": 2, **split}, **CALM, schedule={"steps": 3})
    one = run_here(whole, base, stores, folder / "one", **run)
    other = run_here(parts, base, stores, folder / "other", **run)
    for left, right in zip(one.steps, other.steps, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-5)
        assert left.grad_norm == pytest.approx(right.grad_norm, abs=1e-5)
        assert left.trained_tokens == right.trained_tokens
    for left, right in zip(one.steps[measured_from:], other.steps[measured_from:], strict=True):
        assert left.measures == pytest.approx(right.measures, abs=1e-5)
    assert one.steps[-1].validation_measures == pytest.approx(other.steps[-1].validation_measures, abs=1e-5)
    assert largest_difference(one.weights, other.weights) <= 1e-5


def assert_packed_together_is_as_apart(
    recipe: Callable[..., Recipe],
    base: Path,
    stores: Stores,
    folder: Path,
    *,
    but: frozenset[str] = frozenset(),
    within: float = 1e-5,
) -> None:
    """All 24 rows in one update, packed and not: the same loss, gradient and measures, `but` for these."""
    batch = {"sequences": 24, "per_device": 24}
    apart = recipe(batch=batch, **CALM, schedule={"steps": 1})
    together = recipe(batch={**batch, "packing": True}, **CALM, schedule={"steps": 1})
    one: Done = run_here(apart, base, stores, folder / "one")
    other = run_here(together, base, stores, folder / "other")
    left, right = one.steps[0], other.steps[0]
    assert left.loss == pytest.approx(right.loss, abs=1e-5)
    assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-4)
    assert left.measures.keys() == right.measures.keys()
    for name in left.measures.keys() - but:
        assert left.measures[name] == pytest.approx(right.measures[name], abs=within)
    assert left.tokens == right.tokens


def assert_resumes_exactly(recipe: Callable[..., Recipe], base: Path, stores: Stores, folder: Path, **run: Any) -> None:
    """Stopped after three of five updates, the last checkpoint being older, it ends in the bits of one left alone."""
    chosen = recipe(schedule={"steps": 5}, checkpoints={"every": 2})
    alone = run_here(chosen, base, stores, folder / "alone", **run)
    with pytest.raises(Interrupted):
        run_here(chosen, base, stores, folder / "stopped", stop=stop_after(3), **run)
    resumed = run_here(chosen, base, stores, folder / "stopped", **run)
    assert resumed.steps[-1].loss == alone.steps[-1].loss
    assert resumed.steps[-1].validation_measures == alone.steps[-1].validation_measures
    assert largest_difference(alone.weights, resumed.weights) == 0.0
