"""Scorers: what a suite can measure on answers and references, by name, each with its settings.

A scorer leaves one row of sufficient statistics per item; a score over any choice of items is a function of the
sum of their rows, so that slices and resamples cost no second look at the texts.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator

from llmops.catalog import Catalog
from llmops.config import Settings
from llmops.errors import InputError

if TYPE_CHECKING:
    # Suites are read and explained where only the core is installed, which has no numpy.
    from llmops.eval.metric import Metric


class Scorer(Settings, ABC):
    """Settings of one scorer, which knows how to measure with them."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The metrics it yields, in order."""

    @abstractmethod
    def measure(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
        """Each metric on answers paired with their references; every answer has at least one reference."""


scorers: Catalog[type[Scorer]] = Catalog("scorer")


@scorers.add("bleu")
class Bleu(Scorer):
    """BLEU in points from 0 to 100 (Papineni et al. 2002), by sacreBLEU; an item counts with all its references."""

    lowercase: bool = False
    """Compare without case; moves the number by several points, so it is part of the signature."""
    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    """How words are told apart; `13a` is what papers report, `char` suits scripts without spaces."""

    def names(self) -> tuple[str, ...]:
        return ("bleu",)

    def measure(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
        from sacrebleu.metrics import BLEU

        # Force: only turns off a warning about texts that look tokenized.
        corpus = BLEU(lowercase=self.lowercase, tokenize=self.tokenize, force=True)
        # One sentence often has no 4-gram in common; alone it is scored on the orders it has, the corpus never.
        sentence = BLEU(lowercase=self.lowercase, tokenize=self.tokenize, effective_order=True)
        return [_sacrebleu("bleu", "bleu", corpus, sentence, answers, references)]


@scorers.add("chrf")
class Chrf(Scorer):
    """chrF in points from 0 to 100 (Popović 2015): F2 of character 6-grams, by sacreBLEU; the best reference counts."""

    word_order: Annotated[NonNegativeInt, Field(le=4)] = 0
    """Longest word n-gram beside the characters; 2 is chrF++, and the metric is then called `chrf++`."""
    lowercase: bool = False
    """Compare without case."""

    def names(self) -> tuple[str, ...]:
        return ("chrf" + "+" * self.word_order,)

    def measure(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
        from sacrebleu.metrics import CHRF

        metric = CHRF(word_order=self.word_order, lowercase=self.lowercase)
        return [_sacrebleu(self.names()[0], "chrf:2", metric, metric, answers, references)]


def _sacrebleu(
    name: str, formula: str, corpus: Any, sentence: Any, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> Metric:
    """A sacreBLEU metric through its segment statistics, which its own significance tests use too."""
    import numpy as np

    from llmops.eval.metric import Metric

    extracted = corpus._extract_corpus_statistics(list(answers), transposed(references))
    return Metric(
        name,
        str(corpus.get_signature()),
        formula,
        np.asarray(extracted, dtype=np.float64),
        np.asarray([float(sentence._compute_score_from_stats(list(row)).score) for row in extracted]),
        span=100.0,
    )


def transposed(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacreBLEU takes them: the first of every item, then the second …; None where an item has fewer."""
    most = max(map(len, references))
    return [[of_item[n] if n < len(of_item) else None for of_item in references] for n in range(most)]


RougeVariant = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
_ALL_VARIANTS: tuple[RougeVariant, ...] = get_args(RougeVariant)


@scorers.add("rouge")
class Rouge(Scorer):
    """ROUGE F1 from 0 to 1 (Lin 2004), by rouge-score: mean over items, each with the reference that suits it best.

    `rougeL` reads an answer as one sentence; `rougeLsum` takes each line as a sentence.
    """

    variants: list[RougeVariant] = Field(min_length=1, default_factory=lambda: list(_ALL_VARIANTS))
    """Which of them; each is a metric of that name."""
    stemmer: bool = False
    """Strip English endings before comparing (Porter)."""

    @field_validator("variants")
    @classmethod
    def _each_once(cls, variants: list[RougeVariant]) -> list[RougeVariant]:
        for name in variants:
            if variants.count(name) > 1:
                raise ValueError(f"{name} is listed twice")
        return variants

    def names(self) -> tuple[str, ...]:
        return tuple(self.variants)

    def measure(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
        from rouge_score.rouge_scorer import RougeScorer

        from llmops.eval.metric import mean_of

        scorer = RougeScorer(list(self.variants), use_stemmer=self.stemmer, split_summaries=False)
        found = [scorer.score_multi(list(refs), answer) for answer, refs in zip(answers, references, strict=True)]
        how = f"refs:best-f1|agg:mean|stem:{'yes' if self.stemmer else 'no'}|version:{version('rouge-score')}"
        return [
            mean_of(
                name,
                f"{'split:newline|' if name == 'rougeLsum' else ''}{how}",
                [float(item[name].fmeasure) for item in found],
                span=1.0,
            )
            for name in self.variants
        ]


@scorers.add("exact_match")
class ExactMatch(Scorer):
    """Share (0 to 1) of answers equal to any of their references, after stripping and collapsing white space."""

    lowercase: bool = False
    """Compare without case."""

    def names(self) -> tuple[str, ...]:
        return ("exact_match",)

    def measure(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
        from llmops.eval.metric import share_of

        hits = [
            float(self._normal(answer) in {self._normal(one) for one in refs})
            for answer, refs in zip(answers, references, strict=True)
        ]
        return [share_of("exact_match", f"refs:any|space:collapsed|case:{'lc' if self.lowercase else 'mixed'}", hits)]

    def _normal(self, text: str) -> str:
        plain = re.sub(r"\s+", " ", text).strip()
        return plain.casefold() if self.lowercase else plain


@scorers.add("number")
class Number(Scorer):
    """Share (0 to 1) of answers that end in the number of any of their references, as GSM8K is scored.

    The number after the last `####`, `\\boxed{`, `A:` or `answer is`, else the last one of the text; on both sides.
    """

    tolerance: NonNegativeFloat = 0.0
    """Largest difference that still counts as equal, as a share of the reference; 0 asks for the very number."""

    def names(self) -> tuple[str, ...]:
        return ("number",)

    def measure(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
        from llmops.eval.metric import share_of
        from llmops.eval.numbers import final_number

        hits = []
        for answer, refs in zip(answers, references, strict=True):
            wanted = [final_number(one) for one in refs]
            if any(one is None for one in wanted):
                raise InputError(
                    f"the reference {refs[wanted.index(None)][:60]!r} holds no number",
                    fix="give references that end in a number, or use another scorer than `number`",
                )
            given = final_number(answer)
            hits.append(given is not None and any(self._equal(given, one) for one in wanted if one is not None))
        return [share_of("number", f"extract:marked-or-last|refs:any|tolerance:{self.tolerance:g}", hits)]

    def _equal(self, given: Fraction, wanted: Fraction) -> bool:
        return abs(given - wanted) <= Fraction(self.tolerance) * abs(wanted)
