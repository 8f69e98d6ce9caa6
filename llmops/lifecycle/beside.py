"""What a recipe's method needs beside rows and base, found before anything slow: a teacher, or what is rewarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmops.errors import InputError
from llmops.events import Listener
from llmops.finetune.method import Distill, Grpo
from llmops.finetune.recipe import Recipe
from llmops.lifecycle.rewards import reward_shapes, rewards_digest, rewards_of
from llmops.lifecycle.teacher import Teacher, teacher_of
from llmops.records import ModelSource
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from llmops.finetune.grpo import Reward
    from llmops.finetune.shape import ModelShape
    from llmops.finetune.teacher import TeacherModel


@dataclass(frozen=True, slots=True)
class Beside:
    """What the method needs; empty where it needs nothing.

    Attributes:
        teacher: who answers prompts, or whose distributions are learned, or both.
        distributions: the teacher whose distributions are learned.
        reward_models: the shapes of those among the rewards.
        digests: of what is part of a run's identity and stands in none of its other parts, by name.
    """

    teacher: Teacher | None = None
    distributions: TeacherModel | None = None
    rewards: Sequence[Reward] = ()
    reward_models: Sequence[ModelShape] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    def check_base(self, base: ModelSource) -> None:
        """Raises InputError where the base cannot learn from what is here."""
        if self.distributions is not None:
            from llmops.finetune.teacher import check_tokenizer

            check_tokenizer(self.distributions, base)


def needed_to_train(recipe: Recipe) -> bool:
    """Whether the rows alone do not make the run again: what only answers prompts has left its answers in them."""
    method = recipe.method
    return isinstance(method, Grpo) or (isinstance(method, Distill) and method.logits is not None)


def beside(recipe: Recipe, workspace: Workspace, listener: Listener, *, world: int) -> Beside:
    """What `recipe` names beside its rows and base.

    Raises:
        InputError: there is no such teacher or scorer, or the method cannot run in `world` processes.
        EnvironmentFault: a package is missing, or a teacher of this machine cannot be loaded.
    """
    match recipe.method:
        case Distill():
            return _taught(recipe.method, workspace, listener)
        case Grpo():
            from llmops.finetune.grpo import check_installed

            if world > 1:
                raise InputError(
                    f"method grpo runs in one process, and {world} are asked for",
                    fix="leave --gpus out; vLLM and the model share one GPU",
                )
            rewards = rewards_of(recipe.method)
            check_installed()
            shapes, _ = reward_shapes(recipe.method)
            return Beside(rewards=rewards, reward_models=shapes, digests={"rewards": rewards_digest(recipe.method)})
        case _:
            return Beside()


def _taught(method: Distill, workspace: Workspace, listener: Listener) -> Beside:
    teacher = teacher_of(method.teacher, workspace, listener)
    if method.logits is None:
        return Beside(teacher)
    from llmops.finetune.teacher import TeacherModel

    assert teacher.subject is not None
    model = TeacherModel(teacher.subject.source, teacher.subject.base)
    return Beside(teacher, model, digests={"teacher": teacher.digest})
