"""What a suite is, as users write it in eval/suites/*.yaml: its items, how they are answered, how that is scored."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from llmops.config import Settings
from llmops.data.section import Origin
from llmops.data.templates import columns_in
from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer
from llmops.eval.scorers.ours import scorers


def _template(text: str) -> str:
    """A template that names at least one column."""
    try:
        named = columns_in(text)
    except InputError as error:
        raise ValueError(f"{error.problem}; {error.fix}") from error
    if not named:
        raise ValueError(f"{text!r} names no column, so it would be the same for every row; write '{{{text}}}'?")
    return text


Template = Annotated[str, AfterValidator(_template)]
Templates = Annotated[
    list[Template],
    Field(min_length=1),
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=str | list[str]),
]


class FewShot(Origin):
    """Solved examples that are shown before each item: rows of another source or split, under the same templates."""

    count: PositiveInt = 5
    """How many; chosen by hash, the same ones for every item. An item is never among its own examples."""


class ItemSource(Origin):
    """What both kinds of items share."""

    few_shot: FewShot | None = None
    """Solved examples shown before each item as earlier turns; null shows none."""

    slices: dict[Annotated[str, Field(pattern=r"^\w[\w-]*$")], str] = Field(default_factory=dict)
    """Breakdowns by name: a column, or a pattern with one group that is searched in the prompt.
    An item where the pattern finds nothing is in no slice of that name."""
    cluster: str | None = None
    """Column whose equal values mark items that are not independent, such as questions on one document: they are
    resampled together, which widens the intervals. Null takes items with one prompt together."""
    limit: PositiveInt | None = None
    """Measure only so many items, chosen by hash: the same ones whatever the order of the file; null takes all."""

    @field_validator("few_shot")
    @classmethod
    def _not_the_items(cls, shown: FewShot | None, others: ValidationInfo) -> FewShot | None:
        if shown is not None and (shown.source, shown.split) == (others.data.get("source"), others.data.get("split")):
            raise ValueError("the examples are the items themselves, whose answers would be shown; name another split")
        return shown

    @field_validator("slices")
    @classmethod
    def _one_group(cls, slices: dict[str, str]) -> dict[str, str]:
        for name, how in slices.items():
            try:
                groups = re.compile(how).groups
            except re.error as error:
                raise ValueError(f"slice {name}: {how!r} is neither a column nor a pattern ({error})") from error
            if groups > 1:
                raise ValueError(
                    f"slice {name}: the pattern {how!r} has {groups} groups, it must have one; "
                    "write the others as (?:…)"
                )
        return slices


class PromptItems(ItemSource):
    """Columns become one user turn; rows with one prompt are one item with several references."""

    prompt: Template
    """The user turn; `{column}` stands for a column's text."""
    references: Templates
    """Good answers, a template over columns or a list of them; `{column}` alone may also hold a list of texts."""
    choices: Templates | None = None
    """Answers to choose from, for the scorer `multiple_choice`: templates over columns, or one column with a list of
    them; the references are the right ones. Null where answers are free."""
    system: str | None = None
    """A system turn before it, a template over columns; null has none."""


class MessageItems(ItemSource):
    """One column holds a conversation, to be answered by the assistant."""

    messages: str
    """Column with a list of `{role, content}`."""
    references: Templates | None = None
    """Good answers to the conversation, which then ends with the user's turn; null takes the last turn of the
    conversation, the assistant's, as the one reference."""


class PairItems(ItemSource):
    """Pairs of answers of which people preferred one, for scorers that have the model look at both: each pair is an
    item, its chosen answer the reference. Pairs of one prompt are taken together in intervals."""

    prompt: Template
    """The user turn, or `{column}` with all of a column's turns where it holds a list."""
    chosen: Template
    """The better answer: a template over columns, or `{column}` with a list of one turn."""
    rejected: Template
    """The worse answer, likewise."""

    @field_validator("few_shot")
    @classmethod
    def _as_they_stand(cls, shown: FewShot | None) -> FewShot | None:
        if shown is not None:
            raise ValueError("pairs are read as they stand, nothing is shown before them; leave it out")
        return shown


def _kind(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    if "chosen" in given or "rejected" in given:
        return "<pairs>"
    return "<messages>" if "messages" in given else "<prompt>"


Items = Annotated[
    Annotated[PromptItems, Tag("<prompt>")]
    | Annotated[MessageItems, Tag("<messages>")]
    | Annotated[PairItems, Tag("<pairs>")],
    Discriminator(_kind),
]


class Generation(Settings):
    """How answers are made. Nothing else is taken from the model's own generation settings."""

    prompt: Literal["chat", "plain"] = "chat"
    """`chat` asks through the model's chat template; `plain` gives the bare text to go on with, for models that were
    never taught to chat: examples are then prompt, space and answer, an empty line after each."""

    max_tokens: PositiveInt = 256
    """Longest answer in tokens; one that is cut there is counted as truncated."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the likeliest token; above, tokens are drawn from the softmax of logits / temperature."""
    seed: NonNegativeInt = 0
    """Draws the samples of a temperature above 0, for each item on its own: batching does not change them."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer and are cut off it, beside the model's own end-of-turn tokens."""


class _OneScorer(Settings):
    """One scorer under its name, as in `- bleu: {lowercase: true}`."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_means_defaults(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {given: {}}
        return (
            {name: {} if value is None else value for name, value in given.items()}
            if isinstance(given, dict)
            else given
        )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"name one scorer per entry, as in `- bleu: {{}}`; known: {', '.join(scorers)}")
        return self

    @property
    def chosen(self) -> Scorer:
        """The settings of the one that was named."""
        (name,) = self.model_fields_set
        scorer: Scorer = getattr(self, name)
        return scorer

    def resolved(self) -> dict[str, Any]:
        """As it is written, every default filled in."""
        (name,) = self.model_fields_set
        return {name: self.chosen.model_dump(mode="json")}


if TYPE_CHECKING:
    OneScorer = _OneScorer
else:
    # One optional key per scorer of the catalog, so that a fault carries its line, and the nearest name is found.
    OneScorer = create_model(
        "OneScorer",
        __base__=_OneScorer,
        __doc__=_OneScorer.__doc__,
        **{
            name: (scorers[name] | None, Field(default=None, description=cleandoc(scorers[name].__doc__ or "")))
            for name in scorers
        },
    )


class Suite(Settings):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
    """What reports and gates call it."""
    items: Items
    """What the model is asked, and what good answers are."""
    generation: Generation = Generation()
    """How answers are made."""
    scorers: Annotated[list[OneScorer], Field(min_length=1)]
    """What is measured on the answers; one `name: {settings}` per entry."""

    @property
    def metrics(self) -> list[str]:
        """Names of all it measures, in order."""
        return [name for one in self.scorers for name in one.chosen.names()]

    @field_validator("scorers")
    @classmethod
    def _each_metric_once(cls, given: list[OneScorer]) -> list[OneScorer]:
        names = [name for one in given for name in one.chosen.names()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the metric {name} is measured twice; leave one of them out")
        return given
