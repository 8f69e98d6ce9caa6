"""A plan made from a recipe alone: its shape found, its rows sampled, the device named; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops.data.sources import check_columns
from llmops.errors import EnvironmentFault
from llmops.finetune.known_shapes import KnownShape, find_shape
from llmops.finetune.lengths import LengthProfile
from llmops.finetune.method import Distill, Grpo
from llmops.finetune.plan import Plan, make_plan
from llmops.finetune.prices import Prices
from llmops.finetune.recipe import Recipe
from llmops.finetune.rollouts import answered_by_vllm
from llmops.finetune.sampling import sampled_lengths
from llmops.finetune.shape import ModelShape
from llmops.finetune.trained import check_shape
from llmops.hardware import Device


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan with what it was made from."""

    plan: Plan
    base: KnownShape
    lengths: LengthProfile
    notes: tuple[str, ...]


def preview(
    recipe: Recipe,
    *,
    world: int,
    device: Device,
    prices: Prices | None,
    cache: Path | None,
    reward_models: Sequence[ModelShape] = (),
) -> Preview:
    """What `recipe` would take on `world` devices like `device`.

    Args:
        reward_models: that reward the model's own answers.
        cache: the workspace's, where embedded bases keep their tokenizer; None counts their tokens by bytes.

    Raises:
        InputError: a local source is missing or lacks a column, or the recipe does not fit the base's shape.
        EnvironmentFault: the base's shape is nowhere on this machine, or the device lacks the precision.
    """
    base = find_shape(recipe.base, cache=cache)
    check_shape(recipe, base.shape, world=world)
    check_columns(recipe.data)
    lengths, notes = sampled_lengths(recipe, base.folder)
    teacher, unknown = _teacher(recipe, cache, device)
    price = prices.of(device) if prices is not None else None
    plan = make_plan(
        recipe,
        base.shape,
        lengths,
        world=world,
        device=device,
        price_per_gpu_hour=price,
        teacher=teacher,
        reward_models=reward_models,
    )
    return Preview(plan, base, lengths, (*plan.notes, *notes, *unknown))


def _teacher(recipe: Recipe, cache: Path | None, device: Device) -> tuple[ModelShape | None, list[str]]:
    """The shape of the teacher that is held beside the student, and what a plan does not know of the method."""
    method = recipe.method
    if isinstance(method, Grpo):
        return None, [
            "grpo: answering takes most of its time, which is not planned",
            "memory of rollouts and rewards is an estimate from shapes that no run was compared with: "
            + (
                f"vLLM takes method.vllm_memory ({method.vllm_memory:.0%}) of the GPU, all its keys and values in it"
                + (", if it is installed" if method.generate == "auto" else "")
                if answered_by_vllm(method, device)
                else f"keys and values of {recipe.batch.sequences} answers at one time, each {method.max_tokens} tokens"
            ),
        ]
    if not isinstance(method, Distill):
        return None, []
    named = method.teacher.model
    notes = [f"{named} is asked first; how long that takes and what it costs is not planned"] if method.answers else []
    if method.logits is None:
        return None, notes
    try:
        return find_shape(named, cache=cache).shape, notes
    except EnvironmentFault as fault:
        return None, [*notes, f"the memory and time of the teacher {named} are not counted: {fault.problem}"]


def fullest(recipe: Recipe, *, world: int, device: Device) -> Plan:
    """The plan of one update in which every row is as long as it may be, whatever the data: does it fit?

    Raises:
        As `preview`, data apart.
    """
    base = find_shape(recipe.base)
    check_shape(recipe, base.shape, world=world)
    sequences = recipe.batch.sequences * len(recipe.method.item.trained)
    rows = LengthProfile.full(sequences, recipe.batch.max_length, origin="every row as long as it may be")
    return make_plan(recipe, base.shape, rows, world=world, device=device, price_per_gpu_hour=None)
