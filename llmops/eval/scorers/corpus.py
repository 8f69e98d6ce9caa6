"""Metrics of a whole corpus by sacreBLEU: BLEU, chrF and TER, with its signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from llmops.eval.scorers.catalog import Scorer, scorers

if TYPE_CHECKING:
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


@scorers.add("bleu")
class Bleu(Scorer):
    """BLEU in points from 0 to 100 (Papineni et al. 2002), by sacreBLEU; an item counts with all its references.

    The score of an item alone counts only the orders of n-grams that its answer is long enough for.
    """

    lowercase: bool = False
    """Compare without case; moves the number by several points, so it is part of the signature."""
    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    """How words are told apart; `13a` is what papers report, `char` suits scripts without spaces."""

    def names(self) -> tuple[str, ...]:
        return ("bleu",)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from sacrebleu.metrics import BLEU

        # Force: only turns off a warning about texts that look tokenized.
        corpus = BLEU(lowercase=self.lowercase, tokenize=self.tokenize, force=True)
        return [_measured("bleu", corpus, items, formula="bleu", alone="bleu_alone")]


@scorers.add("chrf")
class Chrf(Scorer):
    """chrF in points from 0 to 100 (Popović 2015): F2 of character 6-grams, by sacreBLEU; the best reference counts."""

    word_order: Annotated[NonNegativeInt, Field(le=4)] = 0
    """Longest word n-gram beside the characters; 2 is chrF++, and the metric is then called `chrf++`."""
    lowercase: bool = False
    """Compare without case."""

    def names(self) -> tuple[str, ...]:
        return ("chrf" + "+" * self.word_order,)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from sacrebleu.metrics import CHRF

        corpus = CHRF(word_order=self.word_order, lowercase=self.lowercase)
        return [_measured(self.names()[0], corpus, items, formula="chrf:2")]


@scorers.add("ter")
class Ter(Scorer):
    """TER in points (Snover et al. 2006), by sacreBLEU: edits and moved phrases per 100 words of reference.

    0 is perfect and lower is better; an answer much longer than its reference can cost more than 100. The edits are
    those to the nearest reference, the words the mean over the references.
    """

    lowercase: bool = True
    """Compare without case, as the original tool does."""
    normalized: bool = False
    """Set punctuation apart from words before comparing."""
    punctuation: bool = True
    """Count punctuation; false takes it out."""

    def names(self) -> tuple[str, ...]:
        return ("ter",)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from sacrebleu.metrics import TER

        corpus = TER(case_sensitive=not self.lowercase, normalized=self.normalized, no_punct=not self.punctuation)
        return [_measured("ter", corpus, items, formula="ter", better="lower", span=None)]


def _measured(
    name: str,
    corpus: Any,
    items: Sequence[Answered],
    *,
    formula: str,
    alone: str | None = None,
    better: Literal["higher", "lower"] = "higher",
    span: float | None = 100.0,
) -> Metric:
    """A sacreBLEU metric through its segment statistics, which its own significance tests use too.

    Args:
        alone: the formula of one item's score where it is not that of the corpus.
    """
    import numpy as np

    from llmops.eval.formulas import formula as function_of
    from llmops.eval.metric import Metric

    extracted = corpus._extract_corpus_statistics(
        [item.answer for item in items], transposed([item.references for item in items])
    )
    statistics = np.asarray(extracted, dtype=np.float64)
    per_item = function_of(alone or formula)(statistics)
    return Metric(name, str(corpus.get_signature()), formula, statistics, per_item, better=better, span=span)


def transposed(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacreBLEU takes them: the first of every item, then the second …; None where an item has fewer."""
    most = max(map(len, references))
    return [[of_item[n] if n < len(of_item) else None for of_item in references] for n in range(most)]
