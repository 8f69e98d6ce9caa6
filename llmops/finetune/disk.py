"""How much disk a run fills, told before it starts instead of by a failed write hours later."""

from __future__ import annotations

from pathlib import Path

from llmops.errors import EnvironmentFault
from llmops.finetune.plan import Plan, gib
from llmops.finetune.recipe import Lora, Recipe
from llmops.finetune.shape import ModelShape
from llmops.hardware import free_disk

_ID_AND_MARK = 5
"""Bytes of a token on disk: its id and whether it is trained."""
_LOG_PROBABILITY = 4
"""Bytes that a reference keeps of each trained token."""
_OPTIMIZER = {"adamw": 8, "adamw8bit": 2}


def checkpoint_bytes(plan: Plan, recipe: Recipe) -> int:
    """One checkpoint: trained weights in 32 bits, and the optimizer's state."""
    return plan.trained_weights * (4 + _OPTIMIZER[recipe.optimizer.name])


def artifact_bytes(plan: Plan, recipe: Recipe, shape: ModelShape) -> int:
    """The result: a whole model in the base's own precision, an adapter in 32 bits, or both where it is merged."""
    adapter = recipe.adapter
    if not isinstance(adapter, Lora):
        return plan.weights * shape.file_bytes
    return 4 * plan.trained_weights + (plan.weights * shape.file_bytes if adapter.merge else 0)


def disk_needed(plan: Plan, recipe: Recipe, shape: ModelShape) -> int:
    """Bytes a run writes at most at one time.

    The checkpoints that are kept and the one being written beside them, the best one where rows are held out, the
    artifact, twice while it is put in place, and the tokens of one epoch with what a reference thinks of them.
    """
    kept = recipe.checkpoints.keep + 1
    held_out = isinstance(recipe.data.validation, list) or recipe.data.validation > 0
    if held_out and recipe.validation.keep_best:
        kept += 1
    epoch = plan.tokens.times(plan.updates_per_epoch / plan.updates)
    item = recipe.method.item
    a_token = _ID_AND_MARK * epoch.used + (_LOG_PROBABILITY * epoch.trained if recipe.method.reference else 0)
    tokens = a_token * item.sequences / len(item.trained)
    return int(kept * checkpoint_bytes(plan, recipe) + 2 * artifact_bytes(plan, recipe, shape) + tokens)


def check_disk(path: Path, needed: int) -> None:
    """Refuse a run whose files would not fit where they go.

    Raises:
        EnvironmentFault: the file system of `path` has fewer than `needed` bytes free.
    """
    free = free_disk(path)
    if free < needed:
        raise EnvironmentFault(
            f"the run needs about {gib(needed)} of disk at {path}, and {gib(free)} are free",
            fix="free some, lower checkpoints.keep, or choose another disk with --out or LLMOPS_HOME",
        )
