"""A cascade hears how probable the small model's tokens were, and the client what it asked for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmops.serve import cascade
from llmops.serve.attempt import Whole
from llmops.serve.intake import Asked, read_request

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def asked(endpoint: str = CHAT, **more: Any) -> Asked:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "prompt": "a", **more}
    return read_request(endpoint, orjson.dumps(body))


def test_only_what_can_be_taken_back_is_tried_on_the_small_one() -> None:
    assert cascade.applies(asked())
    assert cascade.applies(asked(COMPLETIONS))
    assert not cascade.applies(asked(stream=True))
    assert not cascade.applies(asked("/v1/embeddings", input="a"))


@pytest.mark.parametrize(
    ("endpoint", "said", "changes"),
    [
        (CHAT, {}, {"logprobs": True}),
        (CHAT, {"logprobs": False}, {"logprobs": True}),
        (CHAT, {"logprobs": True}, {}),
        (COMPLETIONS, {}, {"logprobs": 0}),
        (COMPLETIONS, {"logprobs": 3}, {}),
        (COMPLETIONS, {"logprobs": 0}, {}),
    ],
)
def test_probabilities_are_asked_for_and_shown_only_to_those_who_asked(
    endpoint: str, said: dict[str, Any], changes: dict[str, Any]
) -> None:
    request = asked(endpoint, **said)
    assert cascade.changes(request) == changes
    value = {"choices": [{"index": 0, "logprobs": {"content": [{"token": "a", "logprob": -0.5}]}}]}
    shown = orjson.loads(cascade.as_asked(Whole(orjson.dumps(value), value), request).raw)
    assert (shown["choices"][0]["logprobs"] is None) is bool(changes)


def test_both_dialects_say_their_tokens() -> None:
    chat = {"choices": [{"logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]}}, {"logprobs": None}]}
    assert cascade.logprobs_of(chat) == [[-0.5, -1.0], []]
    assert cascade.logprobs_of({"choices": [{"logprobs": {"token_logprobs": [None, -0.25]}}]}) == [[-0.25]]
    assert cascade.logprobs_of({"error": {}}) == []
