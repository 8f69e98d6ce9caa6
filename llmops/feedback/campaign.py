"""What people are asked, as users write it in feedback/campaigns/*.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from llmops.config import Settings, refuse
from llmops.data.section import Origin

Kind = Literal["pairwise", "rating", "ranking", "thumbs", "correction"]
Share = Annotated[float, Field(ge=0, lt=1)]
NAME = r"^[a-z0-9][a-z0-9._-]*$"
LANGUAGE = r"^[a-z]{2,3}(-[A-Za-z0-9]+)*$"
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
Language = Annotated[str, Field(pattern=LANGUAGE)]


class AskedJudge(Settings):
    """A language model that is asked, by the campaign's own rubric, what raters will be asked."""

    prompt: str
    """File of eval/judges/: how the question is put."""
    endpoint: str
    """OpenAI-compatible server of the judge, such as http://host:8000/v1."""
    model: Annotated[str, Field(min_length=1)]
    """The judge's name at that server."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key; null sends none."""
    max_tokens: PositiveInt = 1024
    """Longest reply in tokens, its reasoning included."""


class ByJudges(Settings):
    """Likelier, the more judges disagree: with one another (and each with itself, a pair being asked in both orders),
    or with the router."""

    judges: Annotated[list[AskedJudge], Field(min_length=1, max_length=9)]
    """Who is asked. One is enough for a pair; an answer by itself needs two to disagree on it."""
    against: Literal["one another", "router"] = "one another"
    """router: likelier, the more the judges prefer the answer of the shadow, which the router did not choose."""
    asked: PositiveInt = 1000
    """Requests that judges are asked about at most, taken uniformly of those kept; the probability says so."""


class AgainstMetric(Settings):
    """Likelier, the further judges' verdicts in the reports are from a metric there."""

    judges_against: Annotated[str, Field(min_length=1)]
    """The metric; it has an upper bound, such as exact_match, rougeL or chrf."""


class ByRouter(Settings):
    """Likelier, the better the answer of the model that a router would not have chosen."""

    router: Annotated[str, Field(min_length=1)]
    """What `llmops route calibrate` learned, such as configs/router.json. The reports are of its two models; the one
    with the lower score is the small one."""
    metric: Annotated[str, Field(min_length=1)]
    """Of the reports, by which an answer is better; it has an upper bound."""


def _way_of(value: object) -> str | None:
    """Which way of drawing is meant, by the one key that only it has."""
    if isinstance(value, str):
        return "<word>"
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return next((f"<{key}>" for key in ("judges", "judges_against", "router") if key in keys), None)


def _ways(meant: str) -> Discriminator:
    return Discriminator(_way_of, custom_error_type="no_way", custom_error_message=f"must be {meant}")


class FromLedger(Settings):
    """Requests that were served and kept (a route's `capture`), with the answers they got."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    from_: Literal["ledger"] = Field(alias="from")
    """Requests that the gateway kept."""
    route: str | None = None
    """Only this route's; null takes all routes."""
    sample: PositiveInt = 500
    """Items drawn at most."""
    by: Annotated[
        Annotated[Literal["uniform", "uncertainty", "disagreement", "router"], Tag("<word>")]
        | Annotated[ByJudges, Tag("<judges>")],
        _ways("uniform, uncertainty, disagreement, router, or {judges: […]}"),
    ] = "uniform"
    """What makes a request likelier to be drawn: nothing; the learned router's doubt between small and large; two
    answers to it that differ (shadow traffic); router: that what came of its choice of the small model tells against
    it, since the cascade went on to the large one or a client was not content; or the disagreement of judges, who are
    asked as the campaign is made. The probability of each is stored with it."""
    days: PositiveFloat | None = None
    """Only requests of the last so many days; null takes all that are kept."""


class FromReports(Settings):
    """Answers of models to one suite, read from their evaluation reports; items are matched by prompt."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    from_: Literal["reports"] = Field(alias="from")
    """Evaluation reports."""
    reports: Annotated[list[str], Field(min_length=1, max_length=9)]
    """Files of reports that `llmops eval` wrote, one for each model."""
    sample: PositiveInt | None = None
    """Items drawn at most; null takes all."""
    by: Annotated[
        Annotated[Literal["uniform", "judges"], Tag("<word>")]
        | Annotated[AgainstMetric, Tag("<judges_against>")]
        | Annotated[ByRouter, Tag("<router>")],
        _ways("uniform, judges, {judges_against: METRIC}, or {router: FILE, metric: METRIC}"),
    ] = "uniform"
    """What makes an item likelier to be drawn: nothing; judges: that verdicts in the reports on one answer differ, of
    judges with one rubric or of one judge that compared in both orders; or as said there. The probability of each is
    stored with it."""


class Part(Settings):
    """A part of a column's text."""

    column: str
    """The column."""
    pattern: str
    """A pattern with one group, which is the part: `^(.+)_` is what stands before the last underscore."""

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no pattern: {error}") from error
        if groups != 1:
            raise ValueError(f"{pattern!r} has {groups} groups; put one pair of brackets around what is meant")
        return pattern


class FromRows(Settings):
    """Prompts and responses in a file, with ratings where there are some already."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    from_: Literal["rows"] = Field(alias="from")
    """A file."""
    rows: Origin
    """Where they are: csv, jsonl, parquet."""
    prompt: str
    """The user's turn, a template over columns; or `{column}` alone with a list of messages."""
    responses: Annotated[list[str], Field(min_length=1, max_length=9)]
    """The answers, a template over columns each."""
    models: list[str | Part] | None = None
    """Who gave each of the answers, a template over columns or a part of one; never shown to raters. Null: not
    known."""
    language: str | None = None
    """Template with the item's language; null: none."""
    priority: str | None = None
    """Template with a whole number: items with a higher one are given out first; null: 0 for all."""
    tags: list[str] = Field(default_factory=list)
    """Templates with tags of the item."""
    ratings: list[str] = Field(default_factory=list)
    """Columns with a rating each that somebody gave already, each column a rater of its own: imported as they are."""
    means: dict[str, str] = Field(default_factory=dict)
    """What a rating that is written otherwise means: A, B, TIE or BOTH_BAD, a step from 3 to -3, a score, up or
    down."""
    sample: PositiveInt | None = None
    """Items drawn at most, uniformly; null takes all."""


def _origin_of(value: object) -> str | None:
    if isinstance(value, dict):
        given = value.get("from", value.get("from_"))
        return given if isinstance(given, str) else None
    return getattr(value, "from_", None)


Items = Annotated[
    Annotated[FromLedger, Tag("ledger")] | Annotated[FromReports, Tag("reports")] | Annotated[FromRows, Tag("rows")],
    Discriminator(_origin_of),
]


class Gold(Settings):
    """Items whose right answer is known, mixed in unseen."""

    share: Share = 0.05
    """Of a rater's tasks that are such items."""
    source: str
    """A jsonl of them: `prompt`, `responses` and `expected`, which is a verdict as a rater would give it; with a
    `language` it goes only to those who read it."""
    shown: bool = False
    """Whether raters see how often they agreed with them; told after every ten, so that it gives none away."""
    training: NonNegativeInt = 0
    """Such items a rater is given first, with the right answer told afterwards; they count for nothing."""


class Pause(Settings):
    """When a rater is asked to stop until the owner has looked."""

    gold_below: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of gold items answered as expected; raters whose interval lies wholly below it are paused."""
    after: PositiveInt = 10
    """Gold items answered before that is judged at all."""


class Campaign(Settings):
    name: Name
    """What commands, exports and addresses call it."""
    kind: Kind
    """pairwise: which of two answers is better; rating: each answer by the rubric's scale or attributes; ranking:
    several answers in order; thumbs: up or down; correction: the answer rewritten."""
    rubric: str
    """A file of feedback/rubrics/: the question, the instructions and the scale."""
    items: Items
    """What is rated."""
    overlap: PositiveInt = 1
    """Ratings per item, exactly, each by another person."""
    gold: Gold | None = None
    """Items with a known answer, mixed in; null mixes none in."""
    repeat: Share = 0.0
    """Of a rater's tasks that are items they have rated before, to see whether they would say the same again."""
    lease_minutes: PositiveFloat = 30.0
    """How long an item is kept for a rater; an open page extends it. A rating that comes later is kept as surplus."""
    languages: tuple[Language, ...] = ()
    """Languages its raters must read; an item with a language of its own goes only to those who read it."""
    requires: tuple[Name, ...] = ()
    """Qualifications its raters must have."""
    tags: tuple[Annotated[str, Field(min_length=1, max_length=60)], ...] = ()
    """Tags raters may put on an item."""
    mask: tuple[str, ...] = ()
    """Patterns whose matches raters see as ▒▒▒, such as the models' names."""
    pause: Pause | None = None
    """When raters are paused; null never."""
    widget_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/*]+$")], ...] = ()
    """Sites whose pages may send thumbs to this campaign through the widget."""

    @field_validator("mask")
    @classmethod
    def _patterns(cls, mask: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in mask:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no pattern: {error}") from error
        return mask

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems: dict[str, str] = {}
        answers = len(self.items.responses) if isinstance(self.items, FromRows) else None
        if answers is not None:
            if self.kind == "pairwise" and answers != 2:
                problems["items.responses"] = f"a pairwise campaign compares two answers, {answers} are given"
            if self.kind == "ranking" and answers < 2:
                problems["items.responses"] = "a ranking needs at least two answers"
            if self.kind in ("thumbs", "correction") and answers != 1:
                problems["items.responses"] = f"{self.kind} is asked of one answer, {answers} are given"
            assert isinstance(self.items, FromRows)
            models = self.items.models
            if self.items.ratings and self.kind in ("ranking", "correction"):
                problems["items.ratings"] = f"a {self.kind} does not fit into one column"
            if models is not None and len(models) != answers:
                problems["items.models"] = f"{len(models)} models for {answers} answers"
        if self.widget_origins and self.kind != "thumbs":
            problems["widget_origins"] = "the widget asks for thumbs; set kind: thumbs"
        if self.pause is not None and self.gold is None:
            problems["pause"] = "raters are judged by gold items, and there are none; give `gold`"
        refuse(problems)
        return self
