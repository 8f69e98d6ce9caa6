"""What a recipe's method needs beside rows and base, found before anything slow: a teacher, or what is rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmops.errors import InputError
from llmops.events import Listener
from llmops.finetune.distillation import Distill
from llmops.finetune.recipe import Recipe
from llmops.finetune.reinforcement import Grpo
from llmops.lifecycle.rewards import rewards_digest, rewards_of
from llmops.lifecycle.teacher import Teacher, teacher_of
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from llmops.finetune.grpo import Reward


@dataclass(frozen=True, slots=True)
class Beside:
    """What the method needs; empty where it needs nothing.

    Attributes:
        digests: of what is part of a run's identity and stands in none of its other parts, by name.
    """

    teacher: Teacher | None = None
    rewards: Sequence[Reward] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


def beside(recipe: Recipe, workspace: Workspace, listener: Listener, *, world: int) -> Beside:
    """What `recipe` names beside its rows and base.

    Raises:
        InputError: there is no such teacher or scorer, or the method cannot run in `world` processes.
        EnvironmentFault: a package is missing, or a teacher of this machine cannot be loaded.
    """
    match recipe.method:
        case Distill():
            return Beside(teacher=teacher_of(recipe.method.teacher, workspace, listener))
        case Grpo():
            from llmops.finetune.grpo import check_installed

            if world > 1:
                raise InputError(
                    f"method grpo runs in one process, and {world} are asked for",
                    fix="leave --gpus out; vLLM and the model share one GPU",
                )
            rewards = rewards_of(recipe.method)
            check_installed()
            return Beside(rewards=rewards, digests={"rewards": rewards_digest(recipe.method)})
        case _:
            return Beside()
