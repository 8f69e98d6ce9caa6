"""A reward model as scorer: how good it finds each answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from llmops.eval.scorers.catalog import scorers
from llmops.eval.scorers.consulting import Consulted, Consulting
from llmops.events import Listener

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.reward_model import RewardModel


@scorers.add("reward")
class RewardScorer(Consulting):
    """Mean reward of answers, in nats, by a model that `method: {kind: reward}` trained on what people preferred.

    Only differences mean something: of two answers to a prompt with rewards a and b, people prefer the first with
    probability 1 / (1 + exp(b − a)). The measure `reward_accuracy` says how many held-out pairs it ordered as people
    did; a gate that rests on rewards asks for a share of it.
    """

    model: Annotated[str, Field(min_length=1)]
    """The reward model: `models:/name@alias`, `models:/name/3`, or a folder."""
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "reward"
    """What the metric is called, so that one suite can have several reward models."""

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def accuracy_measure(self) -> str:
        """The measure that says how often the model orders answers as people did."""
        return f"{self.name}_accuracy"

    @cached_property
    def found(self) -> RewardModel:
        """The model that is named, as the workspace has it now.

        Raises:
            InputError, EnvironmentFault: as `RewardModel.named`.
        """
        from llmops.eval.reward_model import RewardModel
        from llmops.workspace import Workspace

        return RewardModel.named(self.model, Workspace.current())

    def check_items(self, items: Sequence[Item]) -> None:
        assert self.found.tokenizer is not None

    def consult(self, items: Sequence[Answered], *, listener: Listener, cache: Path | None) -> Consulted:
        from llmops.eval.metric import mean_of

        model = self.found
        known = "how often it orders answers as people do is not known"
        if model.accuracy is not None:
            known = f"it orders {model.accuracy:.1%} of held-out pairs as people did"
        listener.say(f"reward model {self.model}: {known}")
        asked = [(*item.messages, {"role": "assistant", "content": item.answer}) for item in items]
        rewards = model.rewards(asked, listener=listener, cache=cache)
        measures = {} if model.accuracy is None else {self.accuracy_measure: model.accuracy}
        return Consulted([mean_of(self.name, model.signature, rewards, signed=True)], measures)
