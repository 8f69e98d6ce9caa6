"""Training is the same however a batch is split, goes on exactly where it stopped, and refuses to save nonsense."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.errors import EnvironmentFault, Interrupted, TrainingStopped
from llmops.finetune import checkpoint
from tests.finetune.small_runs import PAD, Done, Stores, a_recipe, largest_difference, make_stores, run_here, stop_after

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS: list[Any] = [
    pytest.param({}, id="full"),
    pytest.param({"batch": {"packing": True}}, id="full-packed"),
    pytest.param({"adapter": {"kind": "lora", "rank": 4, "dropout": 0.1}}, id="lora-dropout"),
    pytest.param({"adapter": {"kind": "lora", "rank": 4, "variant": "dora"}}, id="dora"),
    pytest.param({"adapter": {"kind": "lora", "rank": 4, "variant": "rslora"}}, id="rslora"),
    pytest.param({"adapter": {"kind": "lora", "rank": 4, "base_bits": 4}, "batch": {"packing": True}}, id="qlora"),
    pytest.param({"adapter": {"kind": "lora", "rank": 4, "base_bits": 8}}, id="int8"),
    pytest.param({"method": {"kind": "sft", "neftune": 5.0}}, id="neftune"),
    pytest.param({"optimizer": {"name": "adamw8bit"}}, id="adamw8bit"),
    pytest.param({"precision": "bf16"}, id="bf16"),
    pytest.param({"precision": "fp16"}, id="fp16"),
]


@pytest.fixture(scope="module")
def stores(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return make_stores(random_base, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def plain(random_base: Path, stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run of the recipe as it stands."""
    return run_here(a_recipe(), random_base, stores, tmp_path_factory.mktemp("plain"))


class TestASplitBatch:
    """(sequences, accumulation) of (8, 1), (4, 2) and (1, 8) give the same run, with ragged masks."""

    @pytest.mark.parametrize("per_device", [4, 1])
    @pytest.mark.parametrize("packing", [False, True])
    def test_gives_the_same_losses_norms_and_weights(
        self, random_base: Path, stores: Stores, tmp_path: Path, per_device: int, packing: bool
    ) -> None:
        # A rate at which AdamW does not blow rounding of near-zero gradients up into whole steps.
        common: dict[str, Any] = {"optimizer": {"learning_rate": 1e-4, "epsilon": 1e-6}}
        whole = a_recipe(batch={"per_device": 8, "packing": packing}, **common)
        split = a_recipe(batch={"per_device": per_device, "packing": packing}, **common)
        one = run_here(whole, random_base, stores, tmp_path / "one")
        other = run_here(split, random_base, stores, tmp_path / "other")
        for left, right in zip(one.steps, other.steps, strict=True):
            assert left.loss == pytest.approx(right.loss, abs=1e-5)
            assert left.grad_norm == pytest.approx(right.grad_norm, abs=1e-5)
            assert left.trained_tokens == right.trained_tokens
        assert largest_difference(one.weights, other.weights) <= 1e-5

    def test_is_normalised_by_tokens_not_by_passes(self, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        """The loss of an update is the mean over all its trained tokens, computed here with plain transformers."""
        from transformers import AutoModelForCausalLM

        from llmops.finetune.order import Order

        recipe = a_recipe(batch={"per_device": 2})
        done = run_here(recipe, random_base, stores, tmp_path)
        order = Order(stores.train.lengths, stores.train.weights, recipe.batch, recipe.schedule, recipe.seed, world=1)
        first = next(order.updates())
        model = AutoModelForCausalLM.from_pretrained(random_base, dtype=torch.float32)
        total, tokens = 0.0, 0
        for row in first.rows:
            ids, trained = stores.train.row(row)
            labels = torch.where(torch.tensor(trained.astype(bool)), torch.tensor(ids.astype("int64")), -100)
            logits = model(torch.tensor(ids.astype("int64"))[None]).logits[0].detach()
            total += float(torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum"))
            tokens += int(trained[1:].sum())
        assert done.steps[0].trained_tokens == tokens
        assert done.steps[0].loss == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("changes", VARIANTS)
class TestAnInterruptedRun:
    """Stopped in any epoch and started again, it ends in the very weights of the run that was left alone.

    So do, all the more, two runs of one recipe.
    """

    def test_ends_in_the_same_weights_bit_for_bit(
        self, random_base: Path, stores: Stores, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        recipe = a_recipe(**changes)
        alone = run_here(recipe, random_base, stores, tmp_path / "alone")
        total = len(alone.steps)
        # Once in the first epoch and once just before the end, with a whole resumed stretch between.
        for updates in (1, total - 2):
            with pytest.raises(Interrupted) as stopped:
                run_here(recipe, random_base, stores, tmp_path / "stopped", stop=stop_after(updates))
            assert stopped.value.exit_code == 143
        resumed = run_here(recipe, random_base, stores, tmp_path / "stopped")
        assert [step.index for step in resumed.steps] == [total]
        assert resumed.steps[-1].loss == alone.steps[-1].loss
        assert resumed.steps[-1].learning_rate == alone.steps[-1].learning_rate
        assert largest_difference(alone.weights, resumed.weights) == 0.0


def test_another_seed_gives_other_adapter_weights(random_base: Path, stores: Stores, tmp_path: Path) -> None:
    lora = {"kind": "lora", "rank": 4}
    one = run_here(a_recipe(adapter=lora, schedule={"steps": 1}), random_base, stores, tmp_path / "one")
    other = run_here(a_recipe(adapter=lora, schedule={"steps": 1}, seed=6), random_base, stores, tmp_path / "other")
    names = [name for name in one.weights if "lora_A" in name]
    assert names
    assert all(not torch.equal(one.weights[name], other.weights[name]) for name in names)


class TestFrozenWeights:
    @pytest.mark.parametrize(
        ("adapter", "trained"),
        [
            ({"kind": "none"}, lambda name: True),
            ({"kind": "none", "freeze": {"embeddings": True}}, lambda name: "embed_tokens" not in name),
            ({"kind": "none", "freeze": {"layers": "0"}}, lambda name: ".layers.0." not in name),
            ({"kind": "lora", "rank": 4}, lambda name: "lora_" in name),
        ],
    )
    def test_stay_bit_identical_and_every_other_one_moves(
        self, random_base: Path, stores: Stores, tmp_path: Path, adapter: dict[str, Any], trained: Any
    ) -> None:
        from llmops.finetune.model import Placement, load_model

        recipe = a_recipe(adapter=adapter)
        torch.manual_seed(recipe.seed)
        before = dict(load_model(recipe, random_base, Placement(torch.device("cpu"), "sdpa", False)).named_parameters())
        after = dict(run_here(recipe, random_base, stores, tmp_path).trained.model.named_parameters())
        assert before.keys() == after.keys()
        for name in before:
            moved = not torch.equal(before[name], after[name])
            assert moved == trained(name), name

    def test_the_count_of_lora_weights_is_the_formula(self, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        """rank · (inputs + outputs) of each targeted matrix."""
        done = run_here(
            a_recipe(adapter={"kind": "lora", "rank": 4, "targets": ["q_proj", "down_proj"]}, schedule={"steps": 1}),
            random_base,
            stores,
            tmp_path,
        )
        hidden, inner, layers = 64, 128, 2
        assert sum(one.numel() for one in done.weights.values()) == layers * 4 * ((hidden + hidden) + (inner + hidden))


class TestAnAdapter:
    def test_leaves_the_base_as_it_is_before_the_first_update(self, random_base: Path, stores: Stores) -> None:
        from transformers import AutoModelForCausalLM

        from llmops.finetune.model import Placement, load_model

        for variant in ("plain", "rslora", "dora"):
            recipe = a_recipe(adapter={"kind": "lora", "rank": 4, "variant": variant})
            model = load_model(recipe, random_base, Placement(torch.device("cpu"), "sdpa", False)).eval()
            plain = AutoModelForCausalLM.from_pretrained(random_base, dtype=torch.float32)
            ids = torch.tensor([[0, 3, 20, 30, 40, 1]])
            with torch.no_grad():
                torch.testing.assert_close(model.inner(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)

    def test_gets_a_gradient_in_every_target(self, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        done = run_here(a_recipe(adapter={"kind": "lora", "rank": 4}), random_base, stores, tmp_path)
        starts_at_zero = {name: one for name, one in done.weights.items() if "lora_B" in name}
        assert len(starts_at_zero) == 2 * 7
        assert all(one.abs().max() > 0 for one in starts_at_zero.values())

    def test_on_a_4_bit_base_still_gets_gradients_after_a_validation(
        self, random_base: Path, stores: Stores, tmp_path: Path
    ) -> None:
        """bitsandbytes repacks weights for inference in evaluation mode; training after it must not notice."""
        qlora = {"adapter": {"kind": "lora", "rank": 4, "base_bits": 4}}
        validated = run_here(a_recipe(**qlora), random_base, stores, tmp_path / "validated")
        never = run_here(a_recipe(**qlora), random_base, stores, tmp_path / "never", validate=False)
        assert [step.grad_norm for step in validated.steps] == [step.grad_norm for step in never.steps]


class TestKernels:
    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"kernels": {"checkpointing": True}}, id="checkpointing"),
            pytest.param({"kernels": {"loss_chunk": 3}}, id="small-loss-chunks"),
        ],
    )
    def test_change_speed_and_memory_but_not_the_result(
        self, plain: Done, random_base: Path, stores: Stores, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        other = run_here(a_recipe(**changes), random_base, stores, tmp_path)
        for left, right in zip(plain.steps, other.steps, strict=True):
            assert left.loss == pytest.approx(right.loss, abs=1e-5)
            assert left.grad_norm == pytest.approx(right.grad_norm, abs=1e-4)

    def test_eager_attention_equals_sdpa(self, plain: Done, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        other = run_here(a_recipe(), random_base, stores, tmp_path, attention="eager")
        assert [s.loss for s in plain.steps] == pytest.approx([s.loss for s in other.steps], abs=1e-5)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_16_bit_arithmetic_stays_within_its_rounding(
        self, plain: Done, random_base: Path, stores: Stores, tmp_path: Path, precision: str
    ) -> None:
        rounded = run_here(a_recipe(precision=precision), random_base, stores, tmp_path)
        assert [s.loss for s in plain.steps] == pytest.approx([s.loss for s in rounded.steps], rel=4e-3)


class TestValidation:
    @pytest.mark.parametrize("changes", [{"per_device": 1}, {"per_device": 4}, {"packing": True}], ids=str)
    def test_loss_does_not_depend_on_how_rows_are_batched(
        self, random_base: Path, stores: Stores, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        whole = run_here(a_recipe(schedule={"steps": 1}), random_base, stores, tmp_path / "one").trained
        again = run_here(a_recipe(schedule={"steps": 1}), random_base, stores, tmp_path / "two")
        from llmops.finetune.model import Placement
        from llmops.finetune.train import Trainer
        from tests.finetune.small_runs import ALONE

        other = Trainer(
            a_recipe(schedule={"steps": 1}, batch=changes),
            base=random_base,
            train=stores.train,
            validation=stores.validation,
            checkpoints=tmp_path / "three",
            placement=Placement(ALONE.device, "sdpa", False),
            processes=ALONE,
            pad_id=PAD,
        )
        other.model = other.wrapped = again.trained.model
        assert other.score().loss == pytest.approx(whole.progress.validation_loss, abs=1e-6)

    def test_leaves_training_as_if_it_had_not_happened(self, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        dropout = {"adapter": {"kind": "lora", "rank": 4, "dropout": 0.2}}
        often = a_recipe(**dropout, validation={"every": 0.2, "keep_best": False})
        with_it = run_here(often, random_base, stores, tmp_path / "with")
        without = run_here(often, random_base, stores, tmp_path / "without", validate=False)
        assert largest_difference(with_it.weights, without.weights) == 0.0
        assert sum(step.validation_loss is not None for step in with_it.steps) == 10

    def test_the_best_weights_are_the_ones_that_are_left(
        self, random_base: Path, stores: Stores, tmp_path: Path
    ) -> None:
        recipe = a_recipe(
            optimizer={"learning_rate": 0.05}, schedule={"steps": 40, "shape": "constant"}, validation={"every": 0.2}
        )
        done = run_here(recipe, random_base, stores, tmp_path)
        losses = {step.index: step.validation_loss for step in done.steps if step.validation_loss is not None}
        best = min(losses, key=lambda index: losses[index])
        assert best < 40, "the run is meant to get worse again"
        assert done.trained.progress.best_update == best
        until_best = run_here(
            recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"steps": best})}),
            random_base,
            stores,
            tmp_path / "until",
        )
        assert largest_difference(done.weights, until_best.weights) == 0.0

    def test_patience_stops_early_and_a_resumed_run_does_not_go_on(
        self, random_base: Path, stores: Stores, tmp_path: Path
    ) -> None:
        recipe = a_recipe(
            optimizer={"learning_rate": 0.05},
            schedule={"steps": 40, "shape": "constant"},
            validation={"every": 0.2, "patience": 3},
        )
        done = run_here(recipe, random_base, stores, tmp_path)
        assert done.trained.stopped_early
        assert len(done.steps) < 40
        again = run_here(recipe, random_base, stores, tmp_path)
        assert not again.steps
        assert largest_difference(done.weights, again.weights) == 0.0


class TestSafety:
    def test_a_loss_that_is_no_number_stops_the_run_and_is_never_saved(
        self, random_base: Path, stores: Stores, tmp_path: Path
    ) -> None:
        recipe = a_recipe(
            optimizer={"learning_rate": 1e30, "clip": 0.0},
            schedule={"steps": 8, "warmup": 0.0},
            checkpoints={"every": 1},
        )
        with pytest.raises(TrainingStopped, match=r"is (nan|inf)") as stopped:
            run_here(recipe, random_base, stores, tmp_path, validate=False)
        assert "learning_rate" in stopped.value.fix
        saved = checkpoint.latest(tmp_path)
        if saved is not None:
            assert math.isfinite(json.loads((saved / "progress.json").read_text())["loss"])

    def test_training_that_moves_nothing_is_refused(self, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        recipe = a_recipe(optimizer={"learning_rate": 1e-30}, schedule={"steps": 1})
        with pytest.raises(TrainingStopped, match="initial value"):
            run_here(recipe, random_base, stores, tmp_path, validate=False)

    def test_memory_that_runs_out_names_the_keys_to_lower(
        self, random_base: Path, stores: Stores, tmp_path: Path
    ) -> None:
        from llmops.finetune.model import LossModel

        class Hungry(LossModel):
            def forward(self, *_: Any, **__: Any) -> Any:
                raise torch.OutOfMemoryError("CUDA out of memory")

        from llmops.finetune.model import Placement, load_model
        from llmops.finetune.train import Trainer
        from tests.finetune.small_runs import ALONE

        recipe = a_recipe()

        class Starved(Trainer):
            def load(self) -> LossModel:
                inner = load_model(recipe, random_base, self.placement).inner
                return Hungry(inner, chunk=8)

        with pytest.raises(EnvironmentFault, match="out of memory at update 1") as fault:
            Starved(
                recipe,
                base=random_base,
                train=stores.train,
                validation=None,
                checkpoints=tmp_path,
                placement=Placement(ALONE.device, "sdpa", False),
                processes=ALONE,
                pad_id=PAD,
            ).run()
        for key in ("batch.per_device 4", "kernels.checkpointing true", "batch.max_length 32"):
            assert key in fault.value.fix

    def test_the_first_update_holds_the_longest_rows(self, random_base: Path, stores: Stores, tmp_path: Path) -> None:
        done = run_here(a_recipe(), random_base, stores, tmp_path)
        longest = sorted(stores.train.lengths.tolist(), reverse=True)[:8]
        assert done.steps[0].tokens == sum(longest)


def test_a_model_overfitted_on_few_rows_learns_to_stop(random_base: Path, tmp_path: Path) -> None:
    """The end of a turn is trained, also where the pad token is the end token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmops.data.chat import encode_prompt
    from tests.finetune.small_runs import encoded, some_rows

    rows = some_rows(8, 9, longest=12)
    store = encoded(rows, random_base, tmp_path / "train.safetensors")
    recipe = a_recipe(schedule={"steps": 150, "shape": "constant"}, optimizer={"learning_rate": 3e-3})
    done = run_here(recipe, random_base, Stores(tmp_path, store, store), tmp_path / "run", validate=False)
    tokenizer = AutoTokenizer.from_pretrained(random_base)
    model: AutoModelForCausalLM = done.trained.model.causal.eval()
    for row in rows:
        *turns, answer = row.content["messages"]
        prompt = torch.tensor([encode_prompt(tokenizer, turns)])
        made = model.generate(prompt, max_new_tokens=30, do_sample=False, pad_token_id=PAD)
        new = made[0, prompt.shape[1] :].tolist()
        assert new[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(new, skip_special_tokens=True) == answer["content"]
