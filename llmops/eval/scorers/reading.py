"""Scorers that have the model itself look at texts, instead of answering."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


class ByReading(Scorer):
    """A scorer that looks at no answer; a suite of such scorers alone has none made."""

    @abstractmethod
    def texts(self, item: Answered) -> Sequence[str]:
        """What is read as an answer to the item, at least one text."""

    @abstractmethod
    def weigh(self, items: Sequence[Answered], found: Sequence[Sequence[Any]]) -> list[Metric]:
        """As `measure`, from what the model finds each item's texts to be: how likely, or how good."""

    def answer(self, item: Answered, found: Sequence[Any]) -> str:
        """What the model says by them, for people who look at the item; empty where it says nothing."""
        return ""

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        raise ValueError("answers alone do not tell what the model finds texts to be")


def check_choices(items: Sequence[Item]) -> None:
    """Raises InputError where an item has no two choices, or its right ones are not among them."""
    for item in items:
        if len(set(item.choices)) < 2 or "" in item.choices:
            raise InputError(
                f"the item {item.prompt[:60]!r} has no two choices to choose from",
                fix="name them with `choices` under `items`: templates over columns, or a column with a list",
            )
        if not set(item.references) <= set(item.choices):
            wrong = next(one for one in item.references if one not in item.choices)
            raise InputError(
                f"the reference {wrong[:60]!r} of {item.prompt[:60]!r} is none of its choices",
                fix="give the right choice itself as the reference, word for word",
            )
