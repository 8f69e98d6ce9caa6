"""What a cascade needs of the small model's answer: how probable its tokens were, and the client need not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.serve.attempt import Whole
from llmops.serve.intake import CHAT, COMPLETIONS, Asked
from llmops.serve.streams import written


def applies(asked: Asked) -> bool:
    """A stream cannot be taken back."""
    return not asked.stream and asked.endpoint in {CHAT, COMPLETIONS}


def changes(asked: Asked) -> dict[str, Any]:
    """What is added to the request so that its answer says probabilities."""
    if _asks_itself(asked):
        return {}
    return {"logprobs": True} if asked.endpoint == CHAT else {"logprobs": 0}


def logprobs_of(value: Mapping[str, Any]) -> list[list[float]]:
    """Of each choice, the natural logarithms of its tokens' probabilities; empty where it does not say them."""
    return [_logprobs(choice.get("logprobs")) for choice in value.get("choices", []) if isinstance(choice, Mapping)]


def as_asked(answer: Whole, asked: Asked) -> Whole:
    """Without the probabilities, if the client did not ask for them."""
    if _asks_itself(asked):
        return answer
    for choice in answer.value.get("choices", []):
        if isinstance(choice, dict) and "logprobs" in choice:
            choice["logprobs"] = None
    return Whole(written(answer.value) or answer.raw, answer.value)


def _asks_itself(asked: Asked) -> bool:
    said = asked.body.get("logprobs")
    return bool(said) if asked.endpoint == CHAT else said is not None


def _logprobs(said: Any) -> list[float]:
    if not isinstance(said, Mapping):
        return []
    tokens = said.get("content")
    values = [one.get("logprob") for one in tokens if isinstance(one, Mapping)] if isinstance(tokens, list) else None
    if values is None:
        values = said.get("token_logprobs") or []
    return [float(one) for one in values if isinstance(one, int | float)]
