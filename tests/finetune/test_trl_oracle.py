"""Losses of preference methods equal those of TRL's trainers, from rows to number, on the same moved model."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmops.finetune.items import Items
from llmops.finetune.model import LossModel, Placement, ScoreModel
from llmops.finetune.objective import objective_of
from llmops.finetune.passes import Feed
from llmops.finetune.recipe import Recipe
from llmops.finetune.sweep import Score, reference_of, score
from llmops.finetune.tokens import TokenStore
from llmops.records import Row
from tests.finetune.small_preferences import (
    a_preference_recipe,
    encoded_for,
    some_labelled,
    some_pairs,
    with_margins,
)
from tests.finetune.small_runs import ALONE, PAD

ROWS = 6


@pytest.fixture(scope="module")
def tokenizer(random_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(random_base)


@pytest.fixture(scope="module")
def models(random_base: Path) -> tuple[Any, Any]:
    """The base, and the base with every weight moved by a tenth of its spread."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(random_base, dtype=torch.float32).eval()
    moved = copy.deepcopy(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.1 * (weight.std() if weight.numel() > 1 else 1.0) * torch.randn_like(weight))
    return base, moved


def ours(recipe: Recipe, store: TokenStore, models: tuple[Any, Any], folder: Path) -> Score:
    """What our objective makes of all rows of `store` at the moved model, against the base."""
    base, moved = models
    items = Items.of(store, recipe.method.item)
    feed = Feed(items, recipe, placement=Placement(ALONE.device, "sdpa", False), processes=ALONE, pad_id=PAD)
    if recipe.method.reference:
        untrained = LossModel(base, chunk=7)
        feed.reference = reference_of(untrained, untrained, feed, folder / "reference.safetensors")
    return score(LossModel(moved, chunk=7), objective_of(recipe.method), feed)


def conversational(rows: list[Row]) -> Any:
    """Rows as TRL takes them: every part a list of turns."""
    from datasets import Dataset

    def turn(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return Dataset.from_list(
        [
            {"prompt": row.content["messages"]}
            | {key: turn(row.content[key]) for key in ("chosen", "rejected", "completion") if key in row.content}
            | ({"label": row.content["label"]} if "label" in row.content else {})
            for row in rows
        ]
    )


def theirs(trainer: type, config: Any, rows: list[Row], models: tuple[Any, Any], tokenizer: Any) -> Any:
    """A trainer of TRL over the rows, and its batch of all of them."""
    base, moved = models
    made = trainer(
        model=copy.deepcopy(moved),
        ref_model=copy.deepcopy(base),
        args=config,
        train_dataset=conversational(rows),
        processing_class=tokenizer,
    )
    return made, made.data_collator(list(made.train_dataset))


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": ROWS,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "max_length": 64,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        **more,
    }


@pytest.mark.parametrize(
    ("method", "config"),
    [
        pytest.param({"beta": 0.3}, {"beta": 0.3, "loss_type": ["sigmoid"]}, id="sigmoid"),
        pytest.param({"loss": "ipo", "beta": 0.2}, {"beta": 0.2, "loss_type": ["ipo"]}, id="ipo"),
        pytest.param({"loss": "sigmoid_norm", "beta": 2.0}, {"beta": 2.0, "loss_type": ["sigmoid_norm"]}, id="norm"),
        pytest.param(
            {"sft_weight": 0.5},
            {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
            id="with the chosen answers' likelihood",
        ),
    ],
)
def test_dpo_is_that_of_trl(
    random_base: Path, tokenizer: Any, models: Any, tmp_path: Path, method: dict[str, Any], config: dict[str, Any]
) -> None:
    from trl import DPOConfig, DPOTrainer

    rows, recipe = some_pairs(ROWS, 3), a_preference_recipe("dpo", method=method)
    mine = ours(recipe, encoded_for(rows, recipe.method, random_base, tmp_path / "t"), models, tmp_path)
    trainer, batch = theirs(DPOTrainer, DPOConfig(**arguments(tmp_path / "out", **config)), rows, models, tokenizer)
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer._compute_loss(trainer.model, batch, return_outputs=False))
    assert mine.loss == pytest.approx(loss, abs=1e-5)
    told = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    for name, other in (("accuracy", "accuracies"), ("margin", "margins"), ("chosen_reward", "chosen")):
        assert mine.measures[name] == pytest.approx(told[f"rewards/{other}"], abs=1e-4)


def test_label_smoothing_is_that_of_trl(random_base: Path, tokenizer: Any, models: Any, tmp_path: Path) -> None:
    """TRL smooths labels in its loss `aot` alone, which is DPO's on a batch of one pair: nothing is sorted there."""
    from trl import DPOConfig, DPOTrainer

    rows, recipe = some_pairs(2, 4), a_preference_recipe("dpo", method={"label_smoothing": 0.2})
    config = DPOConfig(**arguments(tmp_path / "out", beta=0.1, loss_type=["aot"], label_smoothing=0.2))
    trainer, _ = theirs(DPOTrainer, config, rows, models, tokenizer)
    trainer.model.eval()
    for number, row in enumerate(rows):
        store = encoded_for([row], recipe.method, random_base, tmp_path / f"{number}.safetensors")
        batch = trainer.data_collator([trainer.train_dataset[number]])
        with torch.no_grad():
            loss = float(trainer._compute_loss(trainer.model, batch, return_outputs=False))
        assert ours(recipe, store, models, tmp_path / str(number)).loss == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)], ids=str)
def test_kto_is_that_of_trl(
    random_base: Path, tokenizer: Any, models: Any, tmp_path: Path, weights: tuple[float, float]
) -> None:
    """The reference point too: in one batch both take the answer of the row before as the mismatched one."""
    from trl import KTOConfig, KTOTrainer

    desirable, undesirable = weights
    method = {"beta": 0.3, "desirable_weight": desirable, "undesirable_weight": undesirable}
    rows, recipe = some_labelled(ROWS, 5), a_preference_recipe("kto", method=method)
    mine = ours(recipe, encoded_for(rows, recipe.method, random_base, tmp_path / "t"), models, tmp_path)
    trainer, batch = theirs(KTOTrainer, KTOConfig(**arguments(tmp_path / "out", **method)), rows, models, tokenizer)
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer._compute_loss(trainer.model, batch, return_outputs=False))
    assert mine.loss == pytest.approx(loss, abs=1e-5)
    point = trainer._metrics["eval"]["kl"][-1]
    assert mine.measures["reference_point"] == pytest.approx(point, abs=1e-4)


def test_orpo_is_that_of_trl(models: Any, tmp_path: Path) -> None:
    """TRL's likelihood is of prompt and answer, ours of the answer: of a prompt of one token both are the same."""
    import numpy as np
    from trl.experimental.orpo import ORPOTrainer

    from llmops.finetune.token_file import Writer

    draw = np.random.default_rng(0)
    answers = [draw.integers(8, 200, int(draw.integers(2, 30))) for _ in range(2 * ROWS)]
    with Writer(tmp_path / "t", values=True) as out:
        for answer in answers:
            ids = np.concatenate([[0], answer]).astype(np.int32)
            out.add(ids, np.arange(len(ids)) > 0, 1.0)
        out.finish()
    recipe = a_preference_recipe("orpo", method={"beta": 0.3})
    mine = ours(recipe, TokenStore.open(tmp_path / "t"), models, tmp_path)

    trainer: Any = object.__new__(ORPOTrainer)
    trainer.beta, trainer.is_encoder_decoder, trainer.aux_loss_enabled, trainer.padding_value = 0.3, False, False, PAD
    trainer.accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value)
    batch: dict[str, torch.Tensor] = {}
    for name, those in (("chosen", answers[::2]), ("rejected", answers[1::2])):
        longest = max(map(len, those)) + 1
        ids = torch.full((ROWS, longest), PAD)
        labels = torch.full((ROWS, longest), -100)
        for line, answer in enumerate(those):
            ids[line, : len(answer) + 1] = torch.tensor([0, *answer])
            labels[line, 1 : len(answer) + 1] = torch.tensor(answer)
        mask = torch.arange(longest)[None] <= torch.tensor([len(answer) for answer in those])[:, None]
        batch |= {f"{name}_input_ids": ids, f"{name}_labels": labels, f"{name}_attention_mask": mask.long()}
    with torch.no_grad():
        loss, told = trainer.get_batch_loss_metrics(models[1], batch)
    assert mine.loss == pytest.approx(float(loss), abs=1e-5)
    assert mine.measures["accuracy"] == pytest.approx(told["rewards/accuracies"], abs=1e-6)
    assert mine.measures["margin"] == pytest.approx(told["rewards/margins"], abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_reward_loss_is_that_of_trl(random_base: Path, tokenizer: Any, tmp_path: Path, margin: float) -> None:
    """With the margins of rows and centred, and what is told of the rewards."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(random_base, num_labels=1, dtype=torch.float32).eval()
    with torch.no_grad():
        model.score.weight.mul_(20)  # so that rewards differ enough for the loss to bend
    recipe = a_preference_recipe("reward", method={"margin": margin, "centering": 0.02})
    rows = with_margins(some_pairs(ROWS, 6), 6)
    items = Items.of(encoded_for(rows, recipe.method, random_base, tmp_path / "t"), recipe.method.item)
    feed = Feed(items, recipe, placement=Placement(ALONE.device, "sdpa", False), processes=ALONE, pad_id=PAD)
    mine = score(ScoreModel(copy.deepcopy(model), chunk=7), objective_of(recipe.method), feed)

    dataset = conversational(rows)
    if margin:
        dataset = dataset.add_column("margin", [row.content["margin"] for row in rows])
    config = RewardConfig(**arguments(tmp_path / "out", center_rewards_coefficient=0.02))
    trainer = RewardTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert ("margin" in batch) == bool(margin)
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    assert mine.loss == pytest.approx(loss, abs=1e-5)
    told = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    for name in ("accuracy", "margin", "mean_reward"):
        assert mine.measures[name] == pytest.approx(told[name], abs=1e-5)
