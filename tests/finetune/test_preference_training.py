"""Preference methods keep the promises of the loop: split batches, packing, resuming, and a reference that stays."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.files import folder_digest
from tests.finetune.runs_alike import (
    assert_packed_together_is_as_apart,
    assert_resumes_exactly,
    assert_split_makes_no_difference,
)
from tests.finetune.small_preferences import a_preference_recipe, make_preference_stores
from tests.finetune.small_runs import Stores, run_here

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("dpo", "orpo", "kto")


@pytest.fixture(scope="module")
def stores(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stores]:
    return {kind: make_preference_stores(random_base, tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", [{"per_device": 1}, {"packing": True}], ids=str)
def test_a_split_or_packed_batch_gives_the_same_losses_norms_measures_and_weights(
    random_base: Path, stores: dict[str, Stores], tmp_path: Path, kind: str, split: dict[str, Any]
) -> None:
    recipe = partial(a_preference_recipe, kind)
    # Before the first update rewards are equal up to rounding, and which is larger is chance.
    assert_split_makes_no_difference(recipe, split, random_base, stores[kind], tmp_path, measured_from=1)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_do_not_see_each_other(
    random_base: Path, stores: dict[str, Stores], tmp_path: Path, kind: str
) -> None:
    recipe, chance = partial(a_preference_recipe, kind), frozenset({"accuracy"})
    assert_packed_together_is_as_apart(recipe, random_base, stores[kind], tmp_path, but=chance, within=1e-4)


@pytest.mark.parametrize("adapter", [{"kind": "none"}, {"kind": "lora", "rank": 4, "dropout": 0.1}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_ends_in_the_same_weights_bit_for_bit(
    random_base: Path, stores: dict[str, Stores], tmp_path: Path, kind: str, adapter: dict[str, Any]
) -> None:
    recipe = partial(a_preference_recipe, kind, adapter=adapter)
    assert_resumes_exactly(recipe, random_base, stores[kind], tmp_path)


class TestTheReference:
    @pytest.mark.parametrize("adapter", [{"kind": "none"}, {"kind": "lora", "rank": 4, "dropout": 0.1}], ids=str)
    def test_begins_as_the_model_so_that_the_first_loss_is_ln_2(
        self, random_base: Path, stores: dict[str, Stores], tmp_path: Path, adapter: dict[str, Any]
    ) -> None:
        adapter = adapter | ({"dropout": 0.0} if adapter["kind"] == "lora" else {})
        recipe = a_preference_recipe(adapter=adapter, schedule={"steps": 1})
        first = run_here(recipe, random_base, stores["dpo"], tmp_path).steps[0]
        assert first.loss == pytest.approx(math.log(2), abs=1e-6)
        assert first.measures["kl_k3_per_token"] == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("changes", [{"base_bits": 4}, {"variant": "dora"}], ids=str)
    def test_is_the_base_as_it_is_held_whatever_the_adapter(
        self, random_base: Path, stores: dict[str, Stores], tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        """A 4-bit base thinks otherwise than the whole one: the reference is the one that is trained upon."""
        recipe = a_preference_recipe(adapter={"kind": "lora", "rank": 4, **changes}, schedule={"steps": 1})
        first = run_here(recipe, random_base, stores["dpo"], tmp_path).steps[0]
        assert first.loss == pytest.approx(math.log(2), abs=1e-5)
        assert first.grad_norm > 0

    def test_in_16_bits_differs_by_rounding_alone(
        self, random_base: Path, stores: dict[str, Stores], tmp_path: Path
    ) -> None:
        recipe = a_preference_recipe(precision="bf16", schedule={"steps": 1})
        first = run_here(recipe, random_base, stores["dpo"], tmp_path).steps[0]
        assert first.loss == pytest.approx(math.log(2), abs=5e-3)

    @pytest.mark.parametrize("adapter", [{"kind": "none"}, {"kind": "lora", "rank": 4}], ids=str)
    def test_is_computed_once_from_the_untrained_base_and_stays(
        self, random_base: Path, stores: dict[str, Stores], tmp_path: Path, adapter: dict[str, Any]
    ) -> None:
        before = folder_digest(random_base)
        kept = tmp_path / "reference"
        recipe = a_preference_recipe(adapter=adapter, schedule={"steps": 3})
        run_here(recipe, random_base, stores["dpo"], tmp_path / "run", references=kept)
        assert folder_digest(random_base) == before
        files = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in kept.iterdir()}
        assert files.keys() == {"train.safetensors", "validation.safetensors"}
        # Another run of other updates reads what is there, and leaves it as it is.
        other = a_preference_recipe(adapter=adapter, method={"beta": 0.5}, schedule={"steps": 2})
        run_here(other, random_base, stores["dpo"], tmp_path / "other", references=kept)
        assert {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in kept.iterdir()} == files
        self._is_the_base(random_base, stores["dpo"], kept / "train.safetensors")

    def _is_the_base(self, base: Path, stores: Stores, file: Path) -> None:
        """Every log-probability against plain transformers, one sequence at a time."""
        from transformers import AutoModelForCausalLM

        from llmops.finetune.reference import read_reference

        kept = read_reference(file, stores.train)
        assert kept is not None
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        for number in range(len(stores.train)):
            ids, trained = stores.train.row(number)
            tokens = torch.tensor(ids.astype("int64"))
            with torch.no_grad():
                each = model(tokens[None]).logits[0].log_softmax(-1)
            labels = [place for place in range(1, len(ids)) if trained[place]]
            wanted = [float(each[place - 1, tokens[place]]) for place in labels]
            assert kept.of([number]).tolist() == pytest.approx(wanted, abs=1e-4)

    def test_that_is_torn_or_of_other_tokens_is_computed_again(
        self, random_base: Path, stores: dict[str, Stores], tmp_path: Path
    ) -> None:
        kept = tmp_path / "reference"
        recipe = a_preference_recipe(schedule={"steps": 1})
        run_here(recipe, random_base, stores["dpo"], tmp_path / "one", references=kept)
        whole = (kept / "train.safetensors").read_bytes()
        (kept / "train.safetensors").write_bytes(whole[:50])
        run_here(recipe, random_base, stores["dpo"], tmp_path / "two", references=kept)
        assert (kept / "train.safetensors").read_bytes() == whole


def test_training_on_preferences_raises_what_is_measured_of_them(
    random_base: Path, stores: dict[str, Stores], tmp_path: Path
) -> None:
    recipe = a_preference_recipe(optimizer={"learning_rate": 1e-3}, schedule={"steps": 12})
    done = run_here(recipe, random_base, stores["dpo"], tmp_path)
    held_out = done.steps[-1].validation_measures
    assert held_out["accuracy"] >= 0.9
    assert held_out["margin"] > 0.1
    assert held_out["margin"] == pytest.approx(held_out["chosen_reward"] - held_out["rejected_reward"])
    assert held_out["kl_k3_per_token"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_has_no_row_left_takes_part_with_a_gradient_of_zero(
    random_base: Path, stores: dict[str, Stores], kind: str
) -> None:
    """In the last update of an epoch there may be fewer rows than processes; all must meet in the backward pass."""
    from llmops.finetune.items import Items
    from llmops.finetune.model import Placement, load_model
    from llmops.finetune.objective import objective_of
    from llmops.finetune.order import Update
    from llmops.finetune.passes import Feed
    from llmops.finetune.reference import Reference
    from tests.finetune.small_runs import ALONE, PAD

    recipe = a_preference_recipe(kind)
    items = Items.of(stores[kind].train, recipe.method.item)
    placement = Placement(ALONE.device, "sdpa", False)
    other = replace(ALONE, rank=1, world=2)
    feed = Feed(items, recipe, placement=placement, processes=other, pad_id=PAD, reference=Reference.empty(items.store))
    # One pass: process 0 computes item 3, this one has none.
    passes = feed._of_update(Update(1, 0.0, 1.0, ((((3,),), ()),)))
    model, objective = load_model(recipe, random_base, placement), objective_of(recipe.method)
    known = torch.zeros(0, dtype=torch.float64)
    for one in passes.measured:
        known = objective.measure(model, one)
        assert known.tolist() == [0.0]
    (one,) = passes.trained
    share, measures = objective.loss(model, one, objective.totals(items, [3]), known)
    share.backward()
    assert share.item() == 0.0
    assert not measures.any()
    assert passes.tokens == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
