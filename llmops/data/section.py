"""The `data:` section of a recipe, and the `items:` of a suite: where rows come from and how columns become turns.

Only what users write; reading is `sources.py`, checking is `checks.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, field_validator, model_validator

from llmops.config import Settings
from llmops.licences import spdx

Kind = Literal["messages", "text", "preference", "labelled", "prompt"]
"""What a row holds; `records.Row` says how."""


class Origin(Settings):
    """Where rows are read, whatever their format."""

    source: str
    """A file (csv, tsv, jsonl, json, parquet, arrow), a folder of them, `hub:org/name` or
    `hub:org/name/configuration`, `builtin:domain/split`, or a URL fsspec or deltalake can open (s3, gs, https, dvc,
    lakefs, `delta:` before a table's address)."""
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow", "delta"] | None = None
    """How the file is written; null reads it off the ending."""
    split: str = "train"
    """Which split of a `hub:` data set."""
    revision: str | None = None
    """Commit of a `hub:` data set or version of a Delta table; null takes the newest and records which it was."""
    take: PositiveInt | None = None
    """Stop after so many rows of the source, in its order; null reads all of them."""

    @model_validator(mode="after")
    def _nothing_that_is_not_read(self) -> Self:
        hub, delta = self.source.startswith("hub:"), self.source.startswith("delta:") or self.format == "delta"
        if self.split != "train" and not hub:
            raise ValueError(f"split {self.split!r} names a split of a `hub:` data set, which {self.source} is not")
        if self.revision is not None and not (hub or delta):
            raise ValueError(
                f"revision {self.revision!r} names a version of a `hub:` data set or a Delta table, "
                f"which {self.source} is not"
            )
        return self


class TrainOrigin(Origin):
    weight: PositiveFloat = 1.0
    """How often one epoch sees each row: 2 twice, 0.5 every other epoch."""
    licence: str | None = Field(default=None, exclude=True)
    """SPDX id of the rows' licence, as `CC-BY-SA-4.0`; `LicenseRef-NAME` for rows of your own or under a contract.
    Recorded with the model, and no part of what is trained; null is unknown, which stops a promotion."""

    @field_validator("licence")
    @classmethod
    def _is_one(cls, licence: str | None) -> str | None:
        return None if licence is None else spdx(licence)


class PromptRows(TrainOrigin):
    """Columns become one user turn and one assistant turn."""

    makes: ClassVar[Kind] = "messages"

    prompt: str
    """The user turn; `{column}` stands for a column's text."""
    completion: str | None = None
    """The assistant turn, the part that is trained; `{column}` stands for a column's text. Null where the method
    makes the answers itself."""
    system: str | None = None
    """A system turn before them; null has none."""


class MessageRows(TrainOrigin):
    """One column holds the whole conversation."""

    makes: ClassVar[Kind] = "messages"

    messages: str
    """Column with a list of `{role, content}`; roles system, user, assistant, tool."""
    tools: str | None = None
    """Column with the tools' JSON schemas that the chat template shows; null has none."""


class TextRows(TrainOrigin):
    """Plain text, every token trained: continued pre-training."""

    makes: ClassVar[Kind] = "text"

    text: str
    """Column with the text."""


class PreferenceRows(TrainOrigin):
    """A prompt with a better and a worse answer, as text or as lists of `{role, content}` (TRL's conversations)."""

    makes: ClassVar[Kind] = "preference"

    prompt: str
    """The user turn; `{column}` stands for a column's text, or for all of a column's turns where it holds a list."""
    chosen: str
    """The better answer: a template over columns, or `{column}` with a list of turns."""
    rejected: str
    """The worse answer, likewise."""
    margin: str | None = None
    """Column with how much better the better answer is, 0 or more; only reward modelling reads it. Null has none."""


class LabelledRows(TrainOrigin):
    """A prompt with one answer and whether it is wanted: thumbs up and down."""

    makes: ClassVar[Kind] = "labelled"

    prompt: str
    """The user turn; `{column}` stands for a column's text, or for all of a column's turns where it holds a list."""
    completion: str
    """The answer: a template over columns, or `{column}` with a list of turns."""
    label: str
    """Column with true where the answer is wanted and false where it is not; 1 and 0 will do."""


ROWS = (PromptRows, MessageRows, TextRows, PreferenceRows, LabelledRows)
_TAGS = (("messages", "<messages>"), ("text", "<text>"), ("chosen", "<preference>"), ("label", "<labelled>"))


def _format_of(value: Any) -> str:
    """Which kind of rows a mapping describes, by the key that only that kind has."""
    given = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    for key, tag in _TAGS:
        if key in given:
            return tag
    return "<prompt>"


Rows = Annotated[
    Annotated[PromptRows, Tag("<prompt>")]
    | Annotated[MessageRows, Tag("<messages>")]
    | Annotated[TextRows, Tag("<text>")]
    | Annotated[PreferenceRows, Tag("<preference>")]
    | Annotated[LabelledRows, Tag("<labelled>")],
    Discriminator(_format_of),
]


class Checks(Settings):
    """What is looked for in the rows, and what is done about it. Every row left out is named in `dropped.jsonl`."""

    duplicates: Literal["drop", "report", "keep"] = "drop"
    """Rows equal after normalising space and case: `drop` keeps the first; `keep` does not look."""
    near_duplicates: Literal["drop", "report", "keep"] = "report"
    """Rows whose word 5-grams overlap by `similarity` or more (MinHash); costs about 1 ms a row."""
    similarity: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Jaccard similarity from which two rows are near duplicates."""
    contamination: tuple[str, ...] = ()
    """Suites whose items must not be trained on; rows sharing a whole prompt or 13 words in a row are
    dropped. Words that many items share are phrasing, such as an instruction, and do not count."""
    personal_data: Literal["keep", "report", "redact", "refuse"] = "report"
    """E-mail addresses, phone, card and bank account numbers: `redact` replaces, `refuse` stops the run."""


class DataSection(Settings):
    """What a run is trained and validated on."""

    train: Annotated[list[Rows], Field(min_length=1)]
    """Sources of training rows, read in this order."""
    validation: Annotated[float, Field(ge=0, lt=1)] | Annotated[list[Rows], Field(min_length=1)] = 0.0
    """Share of distinct prompts held out, chosen by hash (the same prompt never on both sides); or sources like
    `train`. Zero holds nothing out: no best checkpoint, no early stopping."""
    checks: Checks = Checks()
    """What is looked for in the rows before training."""

    @property
    def sources(self) -> list[Rows]:
        """All of them, those of the validation rows last."""
        return [*self.train, *(self.validation if isinstance(self.validation, list) else [])]

    @field_validator("validation")
    @classmethod
    def _each_held_out_row_counts_once(cls, validation: float | list[Rows]) -> float | list[Rows]:
        for number, rows in enumerate(validation if isinstance(validation, list) else []):
            if rows.weight != 1:
                raise ValueError(f"entry {number} has a weight; every held-out row counts once in the validation loss")
        return validation
