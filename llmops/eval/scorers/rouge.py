"""ROUGE with rouge-score's very numbers in a small part of its time: each text is read once, tables are bits.

Where rouge-score fills a table of a cell per pair of words, a row here is one whole number whose bits say where the
row steps up (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field, field_validator

from llmops.eval.scorers.catalog import Scorer, scorers
from llmops.eval.scorers.sentences import sentences

if TYPE_CHECKING:
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric

RougeVariant = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
_ALL_VARIANTS: tuple[RougeVariant, ...] = get_args(RougeVariant)
_VERSION = "0.1.2"
"""Of rouge-score, whose numbers these are (tests compare them); part of the signature."""
_WORD = re.compile(r"[a-z0-9]+")

Tokens = list[int]
"""Words of a text as numbers, equal where the words are."""


@scorers.add("rouge")
class Rouge(Scorer):
    """ROUGE F1 from 0 to 1 (Lin 2004), as rouge-score computes it: mean over items, each with the reference that
    suits it best.

    `rougeL` reads an answer as one sentence; `rougeLsum` compares sentence by sentence.
    """

    variants: list[RougeVariant] = Field(min_length=1, default_factory=lambda: list(_ALL_VARIANTS))
    """Which of them; each is a metric of that name."""
    stemmer: bool = False
    """Strip English endings before comparing (Porter)."""
    split: Literal["newline", "sentences"] = "newline"
    """What `rougeLsum` takes as a sentence: each line, as summaries of one sentence per line are written; or sentences
    found by rule (a full stop, question or exclamation mark before a capital; abbreviations and initials end none)."""

    @field_validator("variants")
    @classmethod
    def _each_once(cls, variants: list[RougeVariant]) -> list[RougeVariant]:
        for name in variants:
            if variants.count(name) > 1:
                raise ValueError(f"{name} is listed twice")
        return variants

    def names(self) -> tuple[str, ...]:
        return tuple(self.variants)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import mean_of

        reader = Reader(stemmer=self.stemmer, split=self.split)
        best: dict[RougeVariant, list[float]] = {name: [] for name in self.variants}
        for item in items:
            answer = reader.read(item.answer)
            references = [reader.read(one) for one in item.references]
            for name, values in best.items():
                values.append(max(_F1[name](reference, answer) for reference in references))
        how = f"refs:best-f1|agg:mean|stem:{'yes' if self.stemmer else 'no'}|version:{_VERSION}"
        return [
            mean_of(name, f"{f'split:{self.split}|' if name == 'rougeLsum' else ''}{how}", values, span=1.0)
            for name, values in best.items()
        ]


class Reader:
    """Takes texts apart as rouge-score does: lower case, words of a–z and 0–9, everything else parts them."""

    def __init__(self, *, stemmer: bool, split: Literal["newline", "sentences"]) -> None:
        self._numbers: dict[str, int] = {}
        self._stem = _stemmer() if stemmer else None
        self._split: Callable[[str], list[str]] = (lambda text: text.split("\n")) if split == "newline" else sentences

    def read(self, text: str) -> Text:
        return Text(self._tokens(text), lambda: [self._tokens(part) for part in self._split(text) if part])

    def _tokens(self, text: str) -> Tokens:
        numbers, words = self._numbers, _WORD.findall(text.lower())
        if self._stem is not None:
            words = [stem for word in words if (stem := self._stem(word))]
        return [numbers.setdefault(word, len(numbers)) for word in words]


def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    porter = PorterStemmer()
    # rouge-score leaves words of up to three letters as they are.
    return cache(lambda word: porter.stem(word) if len(word) > 3 else word)


@dataclass(frozen=True)
class Text:
    """One text as words; what a variant needs of it is worked out once, however many texts it is compared with."""

    tokens: Tokens
    _parts: Callable[[], list[Tokens]]

    @cached_property
    def sentences(self) -> list[Tokens]:
        return self._parts()

    @cached_property
    def words(self) -> Counter[int]:
        return Counter(self.tokens)

    @cached_property
    def pairs(self) -> Counter[tuple[int, int]]:
        return Counter(zip(self.tokens, self.tokens[1:], strict=False))


def _rouge1(reference: Text, answer: Text) -> float:
    return _f1((reference.words & answer.words).total(), len(answer.tokens), len(reference.tokens))


def _rouge2(reference: Text, answer: Text) -> float:
    both = (reference.pairs & answer.pairs).total()
    return _f1(both, len(answer.tokens) - 1, len(reference.tokens) - 1)


def _rouge_l(reference: Text, answer: Text) -> float:
    from rapidfuzz.distance import LCSseq

    if not reference.tokens or not answer.tokens:
        return 0.0
    return _f1(LCSseq.similarity(reference.tokens, answer.tokens), len(answer.tokens), len(reference.tokens))


def _rouge_lsum(reference: Text, answer: Text) -> float:
    """Summary-level LCS (Lin 2004, section 3.2): for each sentence of the reference, the union of its words that lie
    on a longest common subsequence with some sentence of the answer; no word counts more often than both texts have it.
    """
    if len(reference.sentences) == len(answer.sentences) == 1:
        # The union of one subsequence is itself, and no word of it can be used up.
        return _rouge_l(Text(reference.sentences[0], list), Text(answer.sentences[0], list))
    of_answer, of_reference = sum(map(len, answer.sentences)), sum(map(len, reference.sentences))
    if not of_answer or not of_reference:
        return 0.0
    left = _counted(reference.sentences) & _counted(answer.sentences)
    masks = [_places(sentence) for sentence in answer.sentences]
    hits = 0
    for sentence in reference.sentences:
        union: set[int] = set()
        for other, places in zip(answer.sentences, masks, strict=True):
            union.update(common(sentence, other, places))
        for token in map(sentence.__getitem__, union):
            if left[token] > 0:
                left[token] -= 1
                hits += 1
    return _f1(hits, of_answer, of_reference)


def _counted(parts: Sequence[Tokens]) -> Counter[int]:
    return Counter(token for part in parts for token in part)


def _places(tokens: Tokens) -> dict[int, int]:
    """For each word, a number with a bit set at each place it stands."""
    places: dict[int, int] = {}
    for place, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << place
    return places


def common(reference: Tokens, answer: Tokens, places: dict[int, int] | None = None) -> Iterator[int]:
    """Places in `reference` of the longest common subsequence that rouge-score picks among all of them, last to first.

    It walks its table t from the corner: equal words belong to it; else to the left where that is larger, else up.

    Args:
        places: of `answer`, where they are known already.
    """
    places = _places(answer) if places is None else places
    if not any(token in places for token in reference):
        return
    # Row i has a zero at bit j − 1 where t[i][j] is one more than t[i][j − 1].
    full = (1 << len(answer)) - 1
    rows = [full]
    for token in reference:
        row = rows[-1]
        if token in places:
            matched = row & places[token]
            row = ((row + matched) | (row - matched)) & full
        rows.append(row)
    i, j = len(reference), len(answer)
    while i > 0 and j > 0:
        if reference[i - 1] == answer[j - 1]:
            yield i - 1
            i -= 1
            j -= 1
            continue
        left = (1 << (j - 1)) - 1
        # t[i][j − 1] > t[i − 1][j], each counted as the zeros of its row up to its column.
        if j - 1 - (rows[i] & left).bit_count() > j - (rows[i - 1] & (left << 1 | 1)).bit_count():
            j -= 1
        else:
            i -= 1


def _f1(both: int, of_answer: int, of_reference: int) -> float:
    """From counts; 0 where nothing is in common. The order of operations is rouge-score's, to the last bit."""
    precision, recall = both / max(of_answer, 1), both / max(of_reference, 1)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


_F1: dict[RougeVariant, Callable[[Text, Text], float]] = {
    "rouge1": _rouge1,
    "rouge2": _rouge2,
    "rougeL": _rouge_l,
    "rougeLsum": _rouge_lsum,
}
