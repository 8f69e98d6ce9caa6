"""Scorers that ask a model how likely texts are to it, instead of what it answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmops.eval.scorers.catalog import scorers
from llmops.eval.scorers.reading import ByReading, check_choices

if TYPE_CHECKING:
    from llmops.eval.engines.likelihood import Likelihood
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


class ByLikelihood(ByReading):
    """A scorer that asks how likely texts are to a model that writes answers."""

    @abstractmethod
    def weigh(self, items: Sequence[Answered], found: Sequence[Sequence[Likelihood]]) -> list[Metric]:
        """As `measure`, from the likelihoods of each item's texts."""


@scorers.add("perplexity")
class Perplexity(ByLikelihood):
    """How surprised the model is by the references: `perplexity` a token, and `byte_perplexity` a UTF-8 byte, which
    models with different tokenizers share. exp of the mean of negative log-likelihoods; lower is better.

    All references of an item count. The model is asked as for an answer, so what ends an answer is no part of it.
    """

    def names(self) -> tuple[str, ...]:
        return ("perplexity", "byte_perplexity")

    def texts(self, item: Answered) -> Sequence[str]:
        return item.references

    def weigh(self, items: Sequence[Answered], found: Sequence[Sequence[Likelihood]]) -> list[Metric]:
        import numpy as np

        from llmops.eval.formulas import perplexity
        from llmops.eval.metric import Metric

        metrics = []
        for name, unit in (("perplexity", "token"), ("byte_perplexity", "byte")):
            sums = [
                [
                    -sum(one.nats for one in of_item),
                    float(
                        sum(one.tokens for one in of_item)
                        if unit == "token"
                        else sum(len(text.encode()) for text in item.references)
                    ),
                ]
                for item, of_item in zip(items, found, strict=True)
            ]
            statistics = np.array(sums, dtype=np.float64)
            signature = f"of:references|per:{unit}|end:left-out"
            metrics.append(Metric(name, signature, "perplexity", statistics, perplexity(statistics), better="lower"))
        return metrics


@scorers.add("multiple_choice")
class MultipleChoice(ByLikelihood):
    """Share (0 to 1) of items where the likeliest of their `choices` is a reference: `choice` by the likelihood of the
    whole choice, `choice_per_byte` by that divided by its UTF-8 bytes, which does not favour short ones.
    """

    def names(self) -> tuple[str, ...]:
        return ("choice", "choice_per_byte")

    def check_items(self, items: Sequence[Item]) -> None:
        check_choices(items)

    def texts(self, item: Answered) -> Sequence[str]:
        return item.choices

    def answer(self, item: Answered, found: Sequence[Likelihood]) -> str:
        return item.choices[_largest([one.nats for one in found])]

    def weigh(self, items: Sequence[Answered], found: Sequence[Sequence[Likelihood]]) -> list[Metric]:
        from llmops.eval.metric import share_of

        whole, per_byte = [], []
        for item, of_item in zip(items, found, strict=True):
            nats = [one.nats for one in of_item]
            sized = [one / len(choice.encode()) for one, choice in zip(nats, item.choices, strict=True)]
            whole.append(item.choices[_largest(nats)] in item.references)
            per_byte.append(item.choices[_largest(sized)] in item.references)
        how = "by:likelihood|ties:first|norm:"
        return [share_of("choice", f"{how}none", whole), share_of("choice_per_byte", f"{how}bytes", per_byte)]


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])
