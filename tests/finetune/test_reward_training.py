"""A reward model keeps the promises of the loop, scores where an answer ends, and is loaded elsewhere as it stands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.errors import InputError, Interrupted
from llmops.finetune.artifact import save_artifact
from llmops.finetune.items import Items
from llmops.finetune.model import Placement
from llmops.finetune.passes import Feed
from llmops.finetune.recipe import Recipe
from llmops.finetune.tokens import TokenStore
from tests.finetune.small_preferences import (
    a_preference_recipe,
    encoded_for,
    make_preference_stores,
    some_pairs,
    with_margins,
)
from tests.finetune.small_runs import ALONE, PAD, Done, Stores, as_source, largest_difference, run_here, stop_after

LORA: dict[str, Any] = {"kind": "lora", "rank": 4}
ADAPTERS = [pytest.param({"kind": "none"}, id="full"), pytest.param(LORA, id="lora")]
# A rate at which AdamW does not blow rounding of near-zero gradients up into whole steps.
CALM: dict[str, Any] = {"optimizer": {"learning_rate": 1e-4, "epsilon": 1e-6}}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stores(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """24 pairs to train on and 8 held out, each with a margin."""
    folder = tmp_path_factory.mktemp("pairs")
    method = a_preference_recipe("reward", method={"margin": 1.0}).method
    train = encoded_for(with_margins(some_pairs(24, 1), 1), method, random_base, folder / "train.safetensors")
    held_out = encoded_for(with_margins(some_pairs(8, 2), 2), method, random_base, folder / "validation.safetensors")
    return Stores(folder, train, held_out)


@pytest.mark.parametrize("split", [{"per_device": 2}, {"per_device": 1}, {"packing": True}], ids=str)
def test_a_split_or_packed_batch_gives_the_same_losses_norms_measures_and_weights(
    random_base: Path, stores: Stores, tmp_path: Path, split: dict[str, Any]
) -> None:
    common: dict[str, Any] = {**CALM, "schedule": {"steps": 3}, "method": {"margin": 0.5, "centering": 0.01}}
    packed = "packing" in split
    whole = a_preference_recipe("reward", batch={"per_device": 8, "packing": packed}, **common)
    parts = a_preference_recipe("reward", batch={"per_device": 2, **split}, **common)
    one = run_here(whole, random_base, stores, tmp_path / "one")
    other = run_here(parts, random_base, stores, tmp_path / "other")
    for left, right in zip(one.steps, other.steps, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-5)
        assert left.grad_norm == pytest.approx(right.grad_norm, abs=1e-5)
        assert left.measures == pytest.approx(right.measures, abs=1e-5)
    assert one.steps[-1].validation_measures == pytest.approx(other.steps[-1].validation_measures, abs=1e-5)
    assert largest_difference(one.weights, other.weights) <= 1e-5


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_interrupted_run_ends_in_the_same_weights_bit_for_bit(
    random_base: Path, stores: Stores, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    dropped = adapter | ({"dropout": 0.1} if adapter["kind"] == "lora" else {})
    recipe = a_preference_recipe("reward", adapter=dropped, schedule={"steps": 5}, checkpoints={"every": 2})
    alone = run_here(recipe, random_base, stores, tmp_path / "alone")
    with pytest.raises(Interrupted):
        run_here(recipe, random_base, stores, tmp_path / "stopped", stop=stop_after(3))
    resumed = run_here(recipe, random_base, stores, tmp_path / "stopped")
    assert resumed.steps[-1].loss == alone.steps[-1].loss
    assert resumed.steps[-1].validation_measures == alone.steps[-1].validation_measures
    assert largest_difference(alone.weights, resumed.weights) == 0.0


def test_packed_pairs_do_not_see_each_other(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    """All rows in one update, packed and not: the same loss and gradient."""
    common: dict[str, Any] = {**CALM, "schedule": {"steps": 1}}
    batch = {"sequences": 24, "per_device": 24}
    apart = a_preference_recipe("reward", batch=batch, **common)
    together = a_preference_recipe("reward", batch={**batch, "packing": True}, **common)
    one = run_here(apart, random_base, stores, tmp_path / "one").steps[0]
    other = run_here(together, random_base, stores, tmp_path / "other").steps[0]
    assert one.loss == pytest.approx(other.loss, abs=1e-5)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    assert one.measures == pytest.approx(other.measures, abs=1e-5)
