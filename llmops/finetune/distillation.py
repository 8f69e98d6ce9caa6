"""Who teaches, and what is learned from it, as `method: {kind: distill}` says it.

Knows nothing of how a teacher is asked: that is the business of `llmops.lifecycle.teacher`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from llmops.config import Settings
from llmops.licences import spdx


class _Teacher(Settings):
    """What all teachers have."""

    licence: str | None = Field(default=None, exclude=True)
    """SPDX id of the terms under which its answers may be trained on, as `Apache-2.0`; `LicenseRef-NAME` for a
    contract. Null takes what its folder or its run says; of an endpoint it is then unknown, which stops a promotion."""

    @field_validator("licence")
    @classmethod
    def _is_one(cls, licence: str | None) -> str | None:
        return None if licence is None else spdx(licence)


class ModelTeacher(_Teacher):
    """A model on this machine."""

    model: Annotated[str, Field(min_length=1)]
    """As `base` is written: `models:/name@champion`, a folder, `builtin:small`, a hub id."""
    through: Literal["transformers", "vllm"] = "transformers"
    """What answers with it; vLLM is many times as fast where a GPU is."""


class EndpointTeacher(_Teacher):
    """A model that someone serves."""

    endpoint: str
    """OpenAI-compatible server, such as http://host:8000/v1."""
    model: Annotated[str, Field(min_length=1)]
    """The teacher's name at that server."""
    api_key_env: str | None = Field(default=None, exclude=True)
    """Environment variable that holds the server's key; null sends none."""
    concurrency: PositiveInt = Field(default=16, exclude=True)
    """Requests at the server at one time."""
    attempts: PositiveInt = Field(default=6, exclude=True)
    """How often one request is tried, in all, before the run stops; what was answered is kept."""
    usd_per_million_read: NonNegativeFloat = Field(default=0.0, exclude=True)
    """Price of a million prompt tokens, to tell the cost."""
    usd_per_million_written: NonNegativeFloat = Field(default=0.0, exclude=True)
    """Price of a million tokens of answers."""

    @field_validator("endpoint")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address; write it as http://host:8000/v1")
        if parts.username or parts.password:
            raise ValueError("the address holds a password, which records would show; name a variable in `api_key_env`")
        return url


def _place_of(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "<endpoint>" if "endpoint" in given else "<model>"


Teacher = Annotated[
    Annotated[ModelTeacher, Tag("<model>")] | Annotated[EndpointTeacher, Tag("<endpoint>")], Discriminator(_place_of)
]


class Answers(Settings):
    """The teacher writes what is trained on; of the rows only the prompts are taken (Kim and Rush 2016,
    arXiv:1606.07947)."""

    max_tokens: PositiveInt = 512
    """Longest answer in tokens; one that is cut there is dropped and named."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the teacher's likeliest token; above, answers are drawn."""
    samples: PositiveInt = 1
    """Answers to each prompt; more than one needs a temperature, equal ones count once."""
    seed: NonNegativeInt = 0
    """Draws the answers of a temperature above 0; the second sample takes the next seed."""
    refusals: Literal["drop", "keep"] = "drop"
    """Answers that begin by declining, as the scorer `refusal` finds them: `drop` names and leaves them out."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples is {self.samples}, but at temperature 0 they would all be equal")
        return self


class Logits(Settings):
    """The student learns the teacher's whole distribution over next tokens, beside the one that stands there (Hinton
    et al. 2015, arXiv:1503.02531): (1 - alpha) · CE + alpha · temperature² · KL(teacher ‖ student)."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of the distributions' distance; 1 leaves the tokens themselves out."""
    temperature: PositiveFloat = 2.0
    """Softens both distributions; above 1 the teacher's unlikely tokens count for more."""
    divergence: Literal["forward", "reverse"] = "forward"
    """`forward` is KL(teacher ‖ student), which covers all the teacher might say; `reverse` is KL(student ‖ teacher),
    which keeps to what it would most likely say (arXiv:2306.08543)."""
