"""A reward model measured itself: whether it finds the answers better that people found better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmops.errors import InputError
from llmops.eval.scorers.catalog import scorers
from llmops.eval.scorers.reading import ByReading, check_choices

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


@scorers.add("reward_accuracy")
class RewardAccuracy(ByReading):
    """Of a reward model, on items with `chosen` and `rejected` (or `choices`) alone: `reward_accuracy`, the share
    (0 to 1) of items whose chosen answer it rewards more than any other, ties half, and `reward_margin`, by how much
    on average, in nats.

    A margin of m says that people prefer the chosen answer with probability 1 / (1 + exp(−m)).
    """

    def names(self) -> tuple[str, ...]:
        return ("reward_accuracy", "reward_margin")

    def check_items(self, items: Sequence[Item]) -> None:
        check_choices(items)
        for item in items:
            if set(item.choices) <= set(item.references):
                raise InputError(
                    f"all choices of {item.prompt[:60]!r} are right, so there is nothing to tell apart",
                    fix="leave the item out, or name another answer among its choices",
                )

    def texts(self, item: Answered) -> Sequence[str]:
        return item.choices

    def answer(self, item: Answered, found: Sequence[float]) -> str:
        return item.choices[max(range(len(found)), key=lambda place: found[place])]

    def weigh(self, items: Sequence[Answered], found: Sequence[Sequence[float]]) -> list[Metric]:
        from llmops.eval.metric import mean_of

        margins = [_margin(item, rewards) for item, rewards in zip(items, found, strict=True)]
        right = [0.5 + 0.5 * ((margin > 0) - (margin < 0)) for margin in margins]
        # With a tie it is no longer a share of items that are right or wrong.
        binary = 0.5 not in right
        return [
            mean_of("reward_accuracy", "by:reward|ties:half", right, span=1.0, binary=binary),
            mean_of("reward_margin", "by:reward|unit:nats", margins, signed=True),
        ]


def _margin(item: Answered, rewards: Sequence[float]) -> float:
    """Reward of the best of the right choices less that of the best of the others."""
    sides: dict[bool, list[float]] = {True: [], False: []}
    for choice, reward in zip(item.choices, rewards, strict=True):
        sides[choice in item.references].append(reward)
    return max(sides[True]) - max(sides[False])
