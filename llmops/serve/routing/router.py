"""What `llmops route calibrate` learned, as a JSON file holds it, and what it says of a prompt.

It is evaluated in plain Python: the gateway needs neither scikit-learn nor numpy, and nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from llmops.config import Settings
from llmops.errors import InputError
from llmops.files import write_text
from llmops.serve.routing.cascade import Sure
from llmops.serve.routing.features import SCANNED, Features
from llmops.serve.routing.isotonic import Steps

FORMAT = 1
"""Of the file; a change that an older reader would misread adds one."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"[.?!]+(?:\s|$)")
_WORD = re.compile(r"(?u)\b\w\w+\b")  # scikit-learn's own

MEASURES: dict[str, Callable[[Features], float]] = {
    "characters": lambda seen: math.log1p(len(seen.text)),
    "tokens": lambda seen: math.log1p(seen.prompt_tokens),
    "numbers": lambda seen: math.log1p(len(_NUMBER.findall(seen.text[:SCANNED]))),
    "sentences": lambda seen: math.log1p(len(_SENTENCE.findall(seen.text[:SCANNED]))),
    "code": lambda seen: math.log1p(seen.code),
    "mathematics": lambda seen: math.log1p(seen.mathematics),
}
"""Numbers that a router may read beside the words, by name; logarithms, since counts are skewed."""

Share = Annotated[float, Field(ge=0, le=1)]


class Chances(NamedTuple):
    """Probabilities that each model answers rightly."""

    small: float
    large: float

    @property
    def gap(self) -> float:
        """What asking the large one is worth, −1 to 1."""
        return self.large - self.small


class Measure(Settings):
    """One number of `MEASURES`, moved and scaled as in training, with its weights.

    A number beyond those of training counts as the nearest of them: nothing was learned of what lies further out.
    """

    name: str
    low: float
    high: float
    mean: float
    deviation: Annotated[float, Field(gt=0)]
    small: float
    large: float


class Model(Settings):
    """Two logistic regressions on the same features: words and pairs of words by TF-IDF, and measures.

    A term's weight in a text is `(1 + ln count) · idf`, and all of them are scaled to length 1, as scikit-learn's
    TfidfVectorizer does with `sublinear_tf`.
    """

    pairs: bool
    """Also pairs of neighbouring words."""
    terms: dict[str, tuple[float, float, float]]
    """By term: inverse document frequency, weight for the small model, weight for the large one."""
    measures: tuple[Measure, ...]
    small: float
    """What is added for the small model, whatever the prompt."""
    large: float

    @model_validator(mode="after")
    def _known(self) -> Self:
        strange = [one.name for one in self.measures if one.name not in MEASURES]
        if strange:
            raise ValueError(f"this version has no measure {', '.join(strange)}")
        return self

    def chances(self, seen: Features) -> Chances:
        """What each model's chances are."""
        small, large = self.small, self.large
        counts: dict[str, int] = {}
        for term in self._terms_in(seen.text):
            counts[term] = counts.get(term, 0) + 1
        length = of_small = of_large = 0.0
        for term, count in counts.items():
            idf, for_small, for_large = self.terms[term]
            value = (1.0 + math.log(count)) * idf
            length += value * value
            of_small += value * for_small
            of_large += value * for_large
        if length:
            length = math.sqrt(length)
            small += of_small / length
            large += of_large / length
        for one in self.measures:
            value = (min(max(MEASURES[one.name](seen), one.low), one.high) - one.mean) / one.deviation
            small += value * one.small
            large += value * one.large
        return Chances(_logistic(small), _logistic(large))

    def known_share(self, text: str) -> float:
        """Share of the text's words that were seen in training; 1 for a model that reads no words."""
        if not self.terms:
            return 1.0
        words = words_of(text)
        return sum(word in self.terms for word in words) / len(words) if words else 0.0

    def _terms_in(self, text: str) -> list[str]:
        if not self.terms:
            return []
        words, terms = words_of(text), self.terms
        found = [word for word in words if word in terms]
        if self.pairs:
            found += [pair for one, two in pairwise(words) if (pair := f"{one} {two}") in terms]
        return found


def words_of(text: str) -> list[str]:
    """The words of the part of a prompt that is read, as scikit-learn's TfidfVectorizer finds them."""
    return _WORD.findall(text[:SCANNED].lower())


def _logistic(value: float) -> float:
    if value < 0:
        grown = math.exp(max(value, -700.0))
        return grown / (1.0 + grown)
    return 1.0 / (1.0 + math.exp(-min(value, 700.0)))


class Interval(Settings):
    """A number with its two-sided interval."""

    value: float
    low: float
    high: float


class Confidence(Settings):
    """For a cascade: from the mean probability of an answer's tokens to the probability that it is right."""

    scores: tuple[float, ...]
    values: tuple[Share, ...]
    at_least: Share
    """Below this probability the large model is asked."""

    @model_validator(mode="after")
    def _steps(self) -> Self:
        Steps(self.scores, self.values)
        return self

    def sure(self) -> Sure:
        return Sure(self.at_least, Steps(self.scores, self.values))


class Data(Settings):
    """The graded answers that a router was learned from."""

    source: str
    digest: str
    """sha256 of the rows that were used: prompt and both grades, in order."""
    rows: int
    left_out: int
    """Rows that were not used: contaminated, or without a prompt."""
    small: str
    large: str
    small_quality: Share
    large_quality: Share


class Learning(Settings):
    """How it was learned: with the data, all that is needed to learn it again."""

    seed: int
    folds: int
    candidates: tuple[str, ...]
    """What was tried; one is chosen by cross-validation within the data."""
    chosen: str
    versions: dict[str, str]


class Aim(Settings):
    """What the threshold was chosen for."""

    kind: Literal["quality", "cost"]
    value: Share
    """Of the large model's quality at least, or of its cost at most."""
    confidence: Share
    """With which the floor was to be shown, on the data at hand; 0.5 for as likely as not."""
    small_cost: Share
    """Of an answer of the small model, as a share of the large one's."""


class Expected(Settings):
    """What to expect of it on prompts like those of the data, measured on prompts that neither the model nor the
    threshold was chosen on."""

    quality: Interval
    """Share of the large model's."""
    large_share: Interval
    """Share of requests that go to the large model."""
    saving: Interval
    """Share of the cost of asking the large model for everything."""
    false_cheap: Interval
    """Of the prompts that go to the small model, the share that only the large one answers rightly."""
    confidence: Share
    """Of the intervals."""


class Router(Settings):
    """All of the file."""

    format: Literal[1]
    data: Data
    learning: Learning
    aim: Aim
    expected: Expected
    beats_length: Interval
    """APGR less that of length alone, on held-out prompts; it is shown to be better where the low end is above 0."""
    threshold: float
    """Prompts with this gap or more go to the large model."""
    known_share: Share
    """Prompts of which a smaller share of words was seen in training go to the large model."""
    tokens: int
    """So do prompts of more tokens: none in training was longer."""
    model: Model
    confidence: Confidence | None = None


def read_router(file: Path) -> Router:
    """The router in a file that `llmops route calibrate` wrote.

    Raises:
        InputError: there is none, or it is not one that this version reads.
    """
    again = f"make one from graded answers: llmops route calibrate DATA --out {file}"
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"the router {file} cannot be read: {error.strerror}", fix=again) from error
    try:
        return Router.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise InputError(f"{file} is no router that this version reads: {problem}", fix=again) from error


def write_router(file: Path, router: Router) -> None:
    """Replace the file atomically; a line for each part, since there may be a hundred thousand terms."""
    parts = [
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in router.model_dump(mode="json").items()
    ]
    write_text(file, "{\n" + ",\n".join(parts) + "\n}\n")
