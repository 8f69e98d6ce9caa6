"""Scorers that ask a model how likely texts are to it, instead of what it answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer, scorers

if TYPE_CHECKING:
    from llmops.eval.engines.likelihood import Likelihood
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


class ByLikelihood(Scorer):
    """A scorer that looks at no answer; a suite of such scorers alone has none made."""

    @abstractmethod
    def texts(self, item: Answered) -> Sequence[str]:
        """What is read as an answer to the item, at least one text."""

    @abstractmethod
    def weigh(self, items: Sequence[Answered], found: Sequence[Sequence[Likelihood]]) -> list[Metric]:
        """As `measure`, from the likelihoods of each item's texts."""

    def answer(self, item: Answered, found: Sequence[Likelihood]) -> str:
        """What the model says by them, for people who look at the item; empty where it says nothing."""
        return ""

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        raise ValueError("answers alone do not tell how likely texts are")


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
