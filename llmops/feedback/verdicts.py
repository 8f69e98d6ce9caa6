"""What a rater says of an item, as the page sends it and the store keeps it, checked against what was asked.

One model per kind of campaign. Answers are named by their position as the rater saw them, from 0; which answer that
was is in the assignment.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Text = Annotated[str, Field(max_length=100_000)]
Short = Annotated[str, Field(min_length=1, max_length=200)]
Position = Annotated[int, Field(ge=0, le=8)]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
Milliseconds = Annotated[int, Field(ge=0, le=7 * 86_400_000)]


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Pair(_Said):
    """Which of two answers is better: 3 the first by far … −3 the second by far, 0 a tie; or both are bad."""

    kind: Literal["pairwise"]
    step: Annotated[int, Field(ge=-3, le=3)] | None = None
    both_bad: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.step is None) != self.both_bad:
            raise ValueError("give a step, or both_bad")
        return self


class Scores(_Said):
    """Each answer by itself: a step of the rubric's scale, or its attributes by name (`yes`, `no`, or a step each)."""

    kind: Literal["rating"]
    scores: Annotated[list[int | dict[Short, int | Literal["yes", "no"]]], Field(min_length=1, max_length=9)]


class Ranking(_Said):
    """All answers from best to worst; those within one group are alike, and those in `invalid` are in no order."""

    kind: Literal["ranking"]
    groups: Annotated[list[Annotated[list[Position], Field(min_length=1)]], Field(max_length=9)]
    invalid: list[Position] = Field(default_factory=list)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = [position for group in self.groups for position in group] + self.invalid
        if not named or sorted(named) != list(range(len(named))):
            raise ValueError("name each answer once")
        return self


class Thumb(_Said):
    kind: Literal["thumbs"]
    up: bool


class Correction(_Said):
    """The answer as it should have been; null where it is right as it is."""

    kind: Literal["correction"]
    text: Text | None


Verdict = Annotated[
    Annotated[Pair, Tag("pairwise")]
    | Annotated[Scores, Tag("rating")]
    | Annotated[Ranking, Tag("ranking")]
    | Annotated[Thumb, Tag("thumbs")]
    | Annotated[Correction, Tag("correction")],
    Discriminator(lambda value: value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)),
]


class Span(_Said):
    """A marked part of an answer: characters `start` to `end` of its raw text, with the text for proof."""

    position: Position
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    quote: Annotated[str, Field(min_length=1, max_length=2_000)]
    label: Annotated[str, Field(max_length=200)] = ""


class Edit(_Said):
    """An answer as it should have been."""

    position: Position
    text: Annotated[str, Field(min_length=1, max_length=100_000)]


class Given(_Said):
    """One rating as the page sends it. Exactly one of verdict and skip; a flag may stand beside either."""

    id: Uuid
    """Made by the page before anything is sent: however often it arrives, it is stored once."""
    assignment: Short
    rubric: Short
    """Digest of the rubric the rater saw."""
    verdict: Verdict | None = None
    skip: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Why the item was not rated."""
    flag: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """What is wrong with the item, such as personal data in it."""
    tags: list[Short] = Field(default_factory=list, max_length=50)
    spans: list[Span] = Field(default_factory=list, max_length=200)
    edits: list[Edit] = Field(default_factory=list, max_length=9)
    comment: Text = ""
    confidence: Annotated[int, Field(ge=1, le=5)] | None = None
    active_ms: Milliseconds = 0
    """Time the page was in front."""
    total_ms: Milliseconds = 0
    """Time from first sight to the verdict."""
    viewport: Annotated[str, Field(pattern=r"^\d{1,5}x\d{1,5}$")] | None = None
    supersedes: Uuid | None = None
    """The rating of the same assignment that this one replaces."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.verdict is None) == (self.skip is None):
            raise ValueError("give a verdict, or say why the item is skipped")
        return self

    def content(self) -> dict[str, Any]:
        """All of it as JSON, without what the store keeps in columns of their own."""
        return self.model_dump(mode="json", exclude={"id", "assignment", "rubric", "supersedes"})
