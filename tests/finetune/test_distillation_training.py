"""A student that learns its teacher's distributions keeps the promises of the loop; the teacher stays as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.finetune.model import Placement
from llmops.finetune.recipe import Recipe
from llmops.finetune.teacher import TeacherModel, check_tokenizer, load_teacher
from tests.finetune.runs_alike import assert_resumes_exactly, assert_split_makes_no_difference
from tests.finetune.small_models import make_random_base, make_tokenizer
from tests.finetune.small_runs import (
    ALONE,
    Stores,
    a_recipe,
    as_source,
    make_stores,
    run_here,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stores(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return make_stores(random_base, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider and deeper than the student, with its tokenizer."""
    folder = tmp_path_factory.mktemp("teacher")
    make_random_base(folder, tied=False, layers=3, hidden=96)
    return folder


def a_student(**changes: Any) -> Recipe:
    logits = changes.pop("logits", {"alpha": 0.5, "temperature": 2.0})
    return a_recipe(method={"kind": "distill", "teacher": {"model": "teacher"}, "logits": logits}, **changes)


@pytest.mark.parametrize("split", [{"per_device": 2}, {"per_device": 1}, {"packing": True}], ids=str)
def test_a_split_or_packed_batch_gives_the_same_losses_norms_and_weights(
    random_base: Path, teacher: Path, stores: Stores, tmp_path: Path, split: dict[str, Any]
) -> None:
    assert_split_makes_no_difference(a_student, split, random_base, stores, tmp_path, teacher=teacher)


@pytest.mark.parametrize("adapter", [{"kind": "none"}, {"kind": "lora", "rank": 4, "dropout": 0.1}], ids=str)
def test_an_interrupted_run_ends_in_the_same_weights_bit_for_bit(
    random_base: Path, teacher: Path, stores: Stores, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    assert_resumes_exactly(partial(a_student, adapter=adapter), random_base, stores, tmp_path, teacher=teacher)


def test_the_first_loss_is_that_of_the_two_models_asked_one_sequence_at_a_time(
    random_base: Path, teacher: Path, stores: Stores, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    batch = {"sequences": len(stores.train), "per_device": 8}
    recipe = a_student(batch=batch, schedule={"steps": 1})
    step = run_here(recipe, random_base, stores, tmp_path, teacher=teacher, validate=False).steps[0]
    small, large = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (random_base, teacher))
    said = distance = 0.0
    for number in range(len(stores.train)):
        ids, trained = stores.train.row(number)
        tokens = torch.tensor(ids.astype("int64"))
        with torch.no_grad():
            ours, theirs = (model(tokens[None]).logits[0].double() for model in (small, large))
        places = [place for place in range(1, len(ids)) if trained[place]]
        for place in places:
            said -= float(ours[place - 1].log_softmax(-1)[tokens[place]])
            p, q = ((logits[place - 1] / 2.0).log_softmax(-1) for logits in (ours, theirs))
            distance += float((q.exp() * (q - p)).sum())
    labels = step.trained_tokens
    assert step.measures["cross_entropy"] == pytest.approx(said / labels, rel=1e-5)
    assert step.measures["divergence"] == pytest.approx(distance / labels, rel=1e-4)
    assert step.loss == pytest.approx((0.5 * said + 0.5 * 4 * distance) / labels, rel=1e-5)


def test_the_teacher_is_frozen_and_keeps_its_bytes(
    random_base: Path, teacher: Path, stores: Stores, tmp_path: Path
) -> None:
    before = folder_digest(teacher)
    recipe = a_student(schedule={"steps": 3})
    held = load_teacher(TeacherModel(as_source(teacher), None), recipe, Placement(ALONE.device, "sdpa", liger=False))
    assert not any(parameter.requires_grad for parameter in held.parameters())
    assert not held.training
    weights = {name: one.clone() for name, one in held.named_parameters()}
    from llmops.finetune.train import Trainer

    Trainer(
        recipe,
        base=random_base,
        train=stores.train,
        validation=stores.validation,
        checkpoints=tmp_path,
        placement=Placement(ALONE.device, "sdpa", liger=False),
        processes=ALONE,
        pad_id=2,
        teacher=lambda: held,
    ).run()
    assert not held.training
    assert all(one.grad is None and torch.equal(one, weights[name]) for name, one in held.named_parameters())
    assert folder_digest(teacher) == before


def test_a_student_comes_nearer_to_its_teacher(
    random_base: Path, teacher: Path, stores: Stores, tmp_path: Path
) -> None:
    recipe = a_student(logits={"alpha": 1.0}, optimizer={"learning_rate": 3e-3}, schedule={"steps": 15})
    done = run_here(recipe, random_base, stores, tmp_path, teacher=teacher)
    first, last = done.steps[0].measures["divergence"], done.steps[-1].validation_measures["divergence"]
    assert last < 0.5 * first


def test_a_teacher_that_is_an_adapter_teaches_on_its_base(random_base: Path, tmp_path: Path) -> None:
    """An adapter that was not trained changes nothing; one whose weights are set does."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(random_base), LoraConfig(r=2, target_modules=["q_proj"])
    )
    for name, one in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(one, 0.5)
    model.save_pretrained(tmp_path)
    recipe, placement = a_student(), Placement(ALONE.device, "sdpa", liger=False)
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([[0, 5, 6, 7]]),
        "positions": torch.tensor([1, 2]),
        "targets": torch.tensor([6, 7]),
    }
    whole = load_teacher(TeacherModel(as_source(random_base), None), recipe, placement).teach(**inputs)
    adapted = load_teacher(TeacherModel(as_source(tmp_path), as_source(random_base)), recipe, placement).teach(**inputs)
    with torch.no_grad():
        wanted = model(inputs["input_ids"]).logits[0, [1, 2]]
    torch.testing.assert_close(adapted.logits(slice(0, 2)), wanted)
    assert not torch.allclose(adapted.logits(slice(0, 2)), whole.logits(slice(0, 2)))


def test_a_teacher_with_other_tokens_is_refused(random_base: Path, teacher: Path, tmp_path: Path) -> None:
    check_tokenizer(TeacherModel(as_source(teacher), None), as_source(random_base))
    other = make_tokenizer()
    other.add_tokens(["<|new|>"])
    make_random_base(tmp_path, tokenizer=other)
    with pytest.raises(InputError, match="have different tokenizers") as refused:
        check_tokenizer(TeacherModel(as_source(tmp_path), None), as_source(random_base))
    assert "method.answers" in refused.value.fix
