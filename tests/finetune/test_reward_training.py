"""A reward model keeps the promises of the loop, scores where an answer ends, and is loaded elsewhere as it stands."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.finetune.artifact import save_artifact
from llmops.finetune.items import Items
from llmops.finetune.model import Placement
from llmops.finetune.passes import Feed
from llmops.finetune.recipe import Recipe
from llmops.finetune.tokens import TokenStore
from tests.finetune.runs_alike import (
    assert_packed_together_is_as_apart,
    assert_resumes_exactly,
    assert_split_makes_no_difference,
)
from tests.finetune.small_preferences import a_preference_recipe, make_preference_stores
from tests.finetune.small_runs import ALONE, PAD, Done, Stores, as_source, run_here

pytestmark = pytest.mark.usefixtures("one_thread")

LORA: dict[str, Any] = {"kind": "lora", "rank": 4}
ADAPTERS = [pytest.param({"kind": "none"}, id="full"), pytest.param(LORA, id="lora")]


@pytest.fixture(scope="module")
def stores(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return make_preference_stores(random_base, tmp_path_factory.mktemp("pairs"), "reward")


a_reward_recipe = partial(a_preference_recipe, "reward")


@pytest.mark.parametrize("split", [{"per_device": 2}, {"per_device": 1}, {"packing": True}], ids=str)
def test_a_split_or_packed_batch_gives_the_same_losses_norms_measures_and_weights(
    random_base: Path, stores: Stores, tmp_path: Path, split: dict[str, Any]
) -> None:
    recipe = partial(a_reward_recipe, method={"margin": 0.5, "centering": 0.01})
    assert_split_makes_no_difference(recipe, split, random_base, stores, tmp_path)


@pytest.mark.parametrize("adapter", [{"kind": "none"}, {**LORA, "dropout": 0.1}], ids=["full", "lora"])
def test_an_interrupted_run_ends_in_the_same_weights_bit_for_bit(
    random_base: Path, stores: Stores, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    assert_resumes_exactly(partial(a_reward_recipe, adapter=adapter), random_base, stores, tmp_path)


def test_packed_pairs_do_not_see_each_other(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    assert_packed_together_is_as_apart(a_reward_recipe, random_base, stores, tmp_path)


def reloaded(artifact: Path, adapter: dict[str, Any], *, double: bool = False) -> Any:
    """The artifact as anyone loads it, in evaluation mode."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    dtype = torch.float64 if double else torch.float32
    if adapter["kind"] == "lora":
        return AutoPeftModelForSequenceClassification.from_pretrained(artifact, num_labels=1, dtype=dtype).eval()
    return AutoModelForSequenceClassification.from_pretrained(artifact, dtype=dtype).eval()


def ids_of(store: TokenStore) -> list[torch.Tensor]:
    return [torch.tensor(store.row(number)[0].astype("int64"))[None] for number in range(len(store))]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


@pytest.fixture(scope="module", params=ADAPTERS)
def trained(
    request: pytest.FixtureRequest, random_base: Path, stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Done, Path, Recipe]:
    """A run of many updates at a rate that learns, and the artifact it left."""
    recipe = a_preference_recipe(
        "reward",
        adapter=request.param,
        method={"margin": 0.5, "centering": 0.01},
        optimizer={"learning_rate": 3e-3},
        schedule={"steps": 18},
    )
    folder = tmp_path_factory.mktemp(request.param["kind"])
    done = run_here(recipe, random_base, stores, folder / "run")
    save_artifact(done.trained.model, recipe, as_source(random_base), folder / "artifact", ALONE)
    return done, folder / "artifact", recipe


class TestTheArtifact:
    def test_tells_held_out_answers_apart(self, trained: tuple[Done, Path, Recipe]) -> None:
        held_out = trained[0].trained.progress.best_measures
        assert held_out["accuracy"] >= 0.9, "8 pairs by chance: 0.5, and 0.9 or more with probability 0.004"
        assert held_out["margin"] == pytest.approx(held_out["chosen_reward"] - held_out["rejected_reward"])
        assert held_out["mean_reward"] == pytest.approx((held_out["chosen_reward"] + held_out["rejected_reward"]) / 2)

    def test_loads_in_transformers_or_peft_and_scores_as_the_live_model_bit_for_bit(
        self, trained: tuple[Done, Path, Recipe], stores: Stores
    ) -> None:
        done, artifact, recipe = trained
        live, again = done.trained.model.inner.eval(), reloaded(artifact, recipe.adapter.model_dump())
        with torch.no_grad():
            for ids in ids_of(stores.validation):
                assert torch.equal(live(input_ids=ids).logits, again(input_ids=ids).logits)

    def test_says_what_it_is(self, trained: tuple[Done, Path, Recipe]) -> None:
        import json

        _, artifact, recipe = trained
        if recipe.adapter.kind == "lora":
            config = json.loads((artifact / "adapter_config.json").read_text())
            assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
        else:
            config = json.loads((artifact / "config.json").read_text())
            assert config["architectures"] == ["LlamaForSequenceClassification"]
            assert (len(config["id2label"]), config["pad_token_id"]) == (1, PAD)

    def test_has_the_held_out_loss_that_a_slow_loop_in_64_bits_finds(
        self, trained: tuple[Done, Path, Recipe], stores: Stores
    ) -> None:
        """Each answer alone, never padded, through plain transformers."""
        done, artifact, recipe = trained
        model = reloaded(artifact, recipe.adapter.model_dump(), double=True)
        with torch.no_grad():
            rewards = [float(model(input_ids=ids).logits[0, 0]) for ids in ids_of(stores.validation)]
        losses, right = [], 0
        for place in range(0, len(rewards), 2):
            chosen, rejected = rewards[place : place + 2]
            margin = float(stores.validation.values[place])
            assert 0 <= margin <= 1
            losses.append(-log_sigmoid(chosen - rejected - 0.5 * margin) + 0.01 * (chosen + rejected) ** 2)
            right += chosen > rejected
        kept = done.trained.progress
        assert kept.best_loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        assert kept.best_measures["accuracy"] == right / len(losses)
        assert kept.best_measures["mean_reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_an_answer_is_scored_at_its_last_token_that_does_not_pad(
    random_base: Path, stores: Stores, packing: bool
) -> None:
    """As transformers pools: where the end of an answer also pads, the token before it is the one."""
    recipe = a_preference_recipe("reward", batch={"sequences": 24, "per_device": 24, "packing": packing})
    items = Items.of(stores.train, recipe.method.item)
    end = int(stores.train.row(0)[0][-1])
    for pad_id, back in ((PAD, 1), (end, 2)):
        feed = Feed(items, recipe, placement=Placement(ALONE.device, "sdpa", False), processes=ALONE, pad_id=pad_id)
        (one,) = feed._both([([(number,) for number in range(6)], True)], packed=packing).trained
        places = one.inputs["positions"].tolist()
        tokens = one.inputs["input_ids"].ravel()
        assert [int(tokens[place]) for place in places] == [int(stores.train.row(n)[0][-back]) for n in range(12)]
        empty = feed._both([([(0,)], False)], packed=packing).trained[0]
        assert len(empty.inputs["positions"]) == 0
