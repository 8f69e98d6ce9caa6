"""Right or wrong by an answer's text: equal, equal as SQuAD has it, the same number, a pattern."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, model_validator

from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer, scorers

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"{text!r} is no pattern: {error}") from error
    if groups > 1:
        raise ValueError(f"the pattern {text!r} has {groups} groups, at most one is read; write the others as (?:…)")
    return text


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
"""A regular expression (Python's `re`) with at most one group; `^` and `$` are the ends of lines."""
MetricName = Annotated[str, Field(pattern=r"^[a-z][\w@+-]*$", max_length=60)]


def extracted(pattern: str, text: str, *, lowercase: bool = False) -> list[str]:
    """What `pattern`, or its group, holds at each place in `text` where it is found."""
    flags = re.MULTILINE | (re.IGNORECASE if lowercase else 0)
    return [found.group(found.re.groups) or "" for found in re.finditer(pattern, text, flags)]


def normal(text: str, *, lowercase: bool) -> str:
    """Without white space around it, one space for each run inside; case folded where it does not count."""
    plain = re.sub(r"\s+", " ", text).strip()
    return plain.casefold() if lowercase else plain


@scorers.add("exact_match")
class ExactMatch(Scorer):
    """Share (0 to 1) of answers equal to any of their references, after stripping and collapsing white space."""

    lowercase: bool = False
    """Compare without case."""

    def names(self) -> tuple[str, ...]:
        return ("exact_match",)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import share_of

        hits = [
            normal(item.answer, lowercase=self.lowercase)
            in {normal(one, lowercase=self.lowercase) for one in item.references}
            for item in items
        ]
        return [share_of("exact_match", f"refs:any|space:collapsed|case:{'lc' if self.lowercase else 'mixed'}", hits)]


@scorers.add("squad_f1")
class Squad(Scorer):
    """F1 of words and exact match as SQuAD scores them (Rajpurkar et al. 2016), 0 to 1, metrics `squad_f1` and
    `squad_exact_match`: case, punctuation and English articles do not count; the best reference does.

    Of two texts without any word, as for SQuAD 2.0's questions that have no answer, F1 is 1; of one, 0.
    """

    def names(self) -> tuple[str, ...]:
        return ("squad_f1", "squad_exact_match")

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import mean_of, share_of

        how = "refs:best|normal:squad-2.0"
        pairs = [(_squad_normal(item.answer), [_squad_normal(one) for one in item.references]) for item in items]
        return [
            mean_of("squad_f1", how, [max(_word_f1(answer, one) for one in refs) for answer, refs in pairs], span=1.0),
            share_of("squad_exact_match", how, [answer in refs for answer, refs in pairs]),
        ]


def _squad_normal(text: str) -> str:
    """As the official script does: lower case, no ASCII punctuation, no articles, single spaces; in this order."""
    plain = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", plain).split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _word_f1(answer: str, reference: str) -> float:
    given, wanted = answer.split(), reference.split()
    if not given or not wanted:
        return float(given == wanted)
    both = (Counter(given) & Counter(wanted)).total()
    return 2 * both / (len(given) + len(wanted))


@scorers.add("number")
class Number(Scorer):
    """Share (0 to 1) of answers that end in the number of any of their references, as GSM8K is scored.

    The number after the last `####`, `\\boxed{`, `A:` or `answer is`, else the last one of the text; on both sides.
    """

    tolerance: NonNegativeFloat = 0.0
    """Largest difference that still counts as equal, as a share of the reference; 0 asks for the very number."""

    def names(self) -> tuple[str, ...]:
        return ("number",)

    def check_items(self, items: Sequence[Item]) -> None:
        for item in items:
            _wanted_numbers(item.references)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import share_of
        from llmops.eval.numbers import final_number

        hits = []
        for item in items:
            wanted, given = _wanted_numbers(item.references), final_number(item.answer)
            hits.append(given is not None and any(self._equal(given, one) for one in wanted))
        return [share_of("number", f"extract:marked-or-last|refs:any|tolerance:{self.tolerance:g}", hits)]

    def _equal(self, given: Fraction, wanted: Fraction) -> bool:
        return abs(given - wanted) <= Fraction(self.tolerance) * abs(wanted)


def _wanted_numbers(references: Sequence[str]) -> list[Fraction]:
    from llmops.eval.numbers import final_number

    found = []
    for reference in references:
        number = final_number(reference)
        if number is None:
            raise InputError(
                f"the reference {reference[:60]!r} holds no number",
                fix="give references that end in a number, or use another scorer than `number`",
            )
        found.append(number)
    return found


@scorers.add("regex")
class Regex(Scorer):
    """Share (0 to 1) of answers in which a pattern is found; with a group, in which what it holds equals a reference.

    Both sides of that comparison are stripped and their white space collapsed.
    """

    pattern: Pattern
    """Searched anywhere in the answer, with Python's `re`; `^` and `$` are the ends of lines. With one group, as in
    `answer: (\\w+)`, the group must hold one of the references; without, the pattern need only be there."""
    name: MetricName = "regex"
    """What the metric is called, so that a suite can ask for several patterns."""
    which: Literal["first", "last"] = "last"
    """Which place counts where the pattern is found several times; only with a group."""
    lowercase: bool = False
    """Compare and search without case."""

    @model_validator(mode="after")
    def _something_to_find(self) -> Self:
        if re.compile(self.pattern).groups == 0 and re.search(self.pattern, ""):
            raise ValueError(f"the pattern {self.pattern!r} is found in every text, also in an empty one")
        return self

    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import share_of

        compares = re.compile(self.pattern).groups == 1
        hits = []
        for item in items:
            found = extracted(self.pattern, item.answer, lowercase=self.lowercase)
            if not found or not compares:
                hits.append(bool(found))
                continue
            given = normal(found[0 if self.which == "first" else -1], lowercase=self.lowercase)
            hits.append(given in {normal(one, lowercase=self.lowercase) for one in item.references})
        how = f"equals:reference|which:{self.which}" if compares else "found"
        return [share_of(self.name, f"{how}|case:{'lc' if self.lowercase else 'mixed'}|pattern:{self.pattern}", hits)]
