"""A request's way in: its body within limits of size and time, read and found to be one that can be passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.serve.refusal import Refusal, bad_request
from llmops.serve.settings import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
ENDPOINTS = {CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES}

_NEEDED = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input", MESSAGES: "messages"}
_MOST_CHOICES = 4096


class Left(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A body that has been read.

    Attributes:
        raw: as it came.
        body: the same as a JSON object.
        model: the route asked for.
        choices: how many answers are asked for.
    """

    endpoint: str
    raw: bytes
    body: dict[str, Any]
    model: str
    stream: bool
    choices: int

    @property
    def metered(self) -> bool:
        """Its stream says its tokens only where `stream_options` ask for them."""
        return self.stream and self.endpoint in {CHAT, COMPLETIONS}

    @property
    def options(self) -> Mapping[str, Any]:
        options = self.body.get("stream_options")
        return options if isinstance(options, Mapping) else {}

    def tokens(self) -> int:
        """A guess at what it takes, prompt and answer together: four bytes of JSON a token, and the most it allows."""
        most = 0
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            asked = self.body.get(name)
            if type(asked) is int and asked > 0:
                most = asked
                break
        return len(self.raw) // 4 + most * self.choices


def headers_of(scope: Scope) -> dict[str, str]:
    """By name in lower case; of a name that comes twice, the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def check_headers(headers: Mapping[str, str], scope: Scope, limits: Limits) -> None:
    """Raises Refusal: 431 too large, 413 a body announced that is too large, 400 a body that is not JSON."""
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > limits.headers_kb * 1000:
        raise Refusal(431, f"the headers have {size} bytes; {limits.headers_kb:g} kB are allowed")
    kind = headers.get("content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() != "application/json":
        raise bad_request(f"content-type is {kind!r}; send application/json", code="unsupported_content_type")
    if headers.get("content-encoding", "identity") != "identity":
        raise bad_request("compressed bodies are not read; send it as it is", code="unsupported_content_encoding")
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.body_mb * 1e6:
        raise _too_large(limits)


async def read_body(receive: Receive, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413 too large, 408 too slow.
        Left: the client was gone before it had sent it.
    """
    try:
        async with asyncio.timeout(limits.body_s):
            message = await receive()
            if message["type"] != "http.request":
                raise Left
            body: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                if len(body) > limits.body_mb * 1e6:
                    raise _too_large(limits)
                return body
            parts = [body]
            size = len(body)
            while message.get("more_body", False):
                message = await receive()
                if message["type"] != "http.request":
                    raise Left
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body_mb * 1e6:
                    raise _too_large(limits)
            return b"".join(parts)
    except TimeoutError as error:
        raise Refusal(
            408, f"the body did not come within {limits.body_s:g} s", code="body_timeout", close=True
        ) from error


def read_request(endpoint: str, raw: bytes) -> Asked:
    """Raises Refusal: 400; what is asked cannot be understood, or not be passed on.

    Only what the gateway itself needs is looked at; the rest is for the engine to judge.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("`model` must name a model; GET /v1/models lists them", param="model")
    stream = body.get("stream")
    if stream is not None and type(stream) is not bool:
        raise bad_request("`stream` must be true or false", param="stream")
    needed = _NEEDED.get(endpoint)
    if needed and needed not in body and not (endpoint == COMPLETIONS and "prompt_embeds" in body):
        raise bad_request(f"`{needed}` is missing", param=needed, code="missing_required_parameter")
    if needed == "messages" and (not isinstance(body["messages"], list) or not body["messages"]):
        raise bad_request("`messages` must be a list of at least one message", param="messages")
    options = body.get("stream_options")
    if options is not None and (not isinstance(options, dict) or not stream):
        raise bad_request("`stream_options` must be an object, and only with `stream`", param="stream_options")
    return Asked(endpoint, raw, body, model, bool(stream) and endpoint != EMBEDDINGS, _choices(endpoint, body))


def _choices(endpoint: str, body: Mapping[str, Any]) -> int:
    several = body.get("n")
    if several is None or endpoint not in {CHAT, COMPLETIONS}:
        several = 1
    if type(several) is not int or not 1 <= several <= _MOST_CHOICES:
        raise bad_request(f"`n` must be a whole number from 1 to {_MOST_CHOICES}", param="n")
    prompt = body.get("prompt")
    # A prompt of completions may be many: texts, or lists of token ids.
    if endpoint == COMPLETIONS and isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return several * len(prompt)
    return several


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body is larger than {limits.body_mb:g} MB", code="body_too_large")
