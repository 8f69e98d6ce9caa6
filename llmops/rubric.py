"""What raters and judges are asked, as users write it in feedback/rubrics/*.yaml: a question and a scale.

People and a judge answer the same question on the same scale, or their agreement would mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from llmops.config import Settings, load, refuse
from llmops.files import digest_of

Choice = Literal["A", "B", "TIE"]
Label = Annotated[str, Field(min_length=1)]

_STEPS = (
    "the first is much better",
    "the first is better",
    "the first is slightly better",
    "they are alike",
    "the second is slightly better",
    "the second is better",
    "the second is much better",
)


class Pairwise(Settings):
    """Which of two answers is better. People say it in steps, 3 for the first to −3 for the second; a judge says
    only which, or that they are alike."""

    kind: Literal["pairwise"]
    labels: Annotated[list[Label], Field(min_length=7, max_length=7)] = Field(default_factory=lambda: list(_STEPS))
    """What the seven steps are called, from the first being much better to the second being so."""
    ties: bool = True
    """Whether two answers may be called alike; false asks for a choice, and 0 is then no step."""

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(step for step in (3, 2, 1, 0, -1, -2, -3) if step or self.ties)

    @property
    def choices(self) -> tuple[Choice, ...]:
        return ("A", "B", "TIE") if self.ties else ("A", "B")


class Likert(Settings):
    """One answer by itself, on steps from 1 upwards."""

    kind: Literal["likert"]
    labels: Annotated[list[Label], Field(min_length=2, max_length=11)]
    """What each step is called, the worst first; there are as many steps as labels."""

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(range(1, len(self.labels) + 1))


class Attribute(Settings):
    question: Label
    """What is asked, to be answered with yes or no, or by a step of the scale's `labels`."""
    good: Literal["yes", "no"] = "yes"
    """The answer that speaks for the text; with `labels` the last of them does."""


class Attributes(Settings):
    """One answer by itself, on several questions, with yes or no or all on the same steps."""

    kind: Literal["attributes"]
    attributes: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Attribute], Field(min_length=1, max_length=20)
    ]
    """The questions by name, in the order they are asked."""
    labels: Annotated[list[Label], Field(min_length=2, max_length=11)] | None = None
    """What each step of a question's answer is called, the worst first; null asks for yes or no."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        turned = [name for name, one in self.attributes.items() if self.labels is not None and one.good == "no"]
        refuse({f"attributes.{name}.good": "the last of `labels` is good; ask the other way round" for name in turned})
        return self

    @property
    def answers(self) -> tuple[str, ...] | tuple[int, ...]:
        """What each question can be answered with, from the worst step to the best, or `yes` and `no`."""
        return ("yes", "no") if self.labels is None else tuple(range(1, len(self.labels) + 1))


class Rubric(Settings):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
    """What reports and campaigns call it."""
    version: PositiveInt
    """Raise it with every change of the words: ratings by different words are different ratings."""
    question: Label
    """What is asked, in one sentence."""
    instructions: str = ""
    """How to decide: what counts, what does not, and what to do in doubt."""
    scale: Annotated[Pairwise | Likert | Attributes, Field(discriminator="kind")]
    """How it is answered."""

    @field_validator("question", "instructions")
    @classmethod
    def _trimmed(cls, text: str) -> str:
        return text.strip()

    @cached_property
    def digest(self) -> str:
        """sha256 over all of it."""
        return digest_of(self.model_dump(mode="json", exclude_none=True))

    @property
    def identity(self) -> dict[str, Any]:
        """How records name it."""
        return {"name": self.name, "version": self.version, "digest": self.digest}


def has_steps(scale: Pairwise | Likert | Attributes) -> bool:
    """Whether ratings of one answer are steps in an order, so that two may be nearer to each other than others are."""
    return isinstance(scale, Likert) or (isinstance(scale, Attributes) and scale.labels is not None)


def load_rubric(path: Path) -> Rubric:
    """The rubric in a file; raises FileFaults with every fault at once."""
    return load(path, Rubric, what="rubric")


def choice_of(step: int) -> Choice:
    """Which answer a step from 3 (the first) to −3 (the second) prefers."""
    return "A" if step > 0 else "B" if step < 0 else "TIE"


def value_of(scale: Likert | Attributes, rating: int | Mapping[str, str | int]) -> float:
    """A rating as a number from 0 (worst) to 1: the step's place on the scale; of attributes the mean of theirs, or the
    share of those that are good."""
    if isinstance(scale, Likert):
        assert isinstance(rating, int)
        return (rating - 1) / (len(scale.labels) - 1)
    assert isinstance(rating, Mapping)
    if scale.labels is not None:
        places = [(int(rating[name]) - 1) / (len(scale.labels) - 1) for name in scale.attributes]
        return sum(places) / len(places)
    good = [rating[name] == attribute.good for name, attribute in scale.attributes.items()]
    return sum(good) / len(good)
