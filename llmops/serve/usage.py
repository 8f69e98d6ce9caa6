"""Tokens of an answer, as the three dialects of the API say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Usage(NamedTuple):
    """None where the engine did not say."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None

    def updated(self, later: Usage) -> Usage:
        """With what `later` says; what it does not say stays."""
        return Usage(*(new if new is not None else old for old, new in zip(self, later, strict=True)))

    def total(self) -> int:
        return (self.prompt or 0) + (self.completion or 0)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def usage_of(answer: Any) -> Usage | None:
    """What one JSON answer, or one event of a stream, says of its tokens; None where it says nothing.

    Chat and completions have `usage.prompt_tokens`; responses and messages `usage.input_tokens`, in a stream within
    `response` or `message`.
    """
    if not isinstance(answer, Mapping):
        return None
    said = answer.get("usage")
    if said is None:
        inner = answer.get("response") or answer.get("message")
        said = inner.get("usage") if isinstance(inner, Mapping) else None
    if not isinstance(said, Mapping):
        return None
    details = said.get("prompt_tokens_details") or said.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else said.get("cache_read_input_tokens")
    return Usage(
        _count(said.get("prompt_tokens", said.get("input_tokens"))),
        _count(said.get("completion_tokens", said.get("output_tokens"))),
        _count(cached),
    )
