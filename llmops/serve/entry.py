"""One request as the ledger keeps it: what the gateway fills in, and what metrics and bills are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Entry:
    """Times are in seconds; what is not known, or did not happen, is None.

    Attributes:
        id: the request's, as in the answer's `x-request-id`.
        at: Unix time at which it came.
        key: the id of the caller's key, never its secret; None where none is asked for.
        endpoint: such as `/v1/chat/completions`.
        route: the model name the client asked for.
        engine: the engine of gateway.yaml that answered.
        version: the model version that answered, as `Target.version`.
        reason: why the route chose this engine, as in `x-llmops-route`.
        cached_tokens: of the prompt tokens, those the engine had in its prefix cache.
        first_token: from the request's arrival to the first byte of the answer's body.
        total: from the request's arrival to the answer's last byte.
        status: of the answer; 499 where the client left.
        error: `code` or `type` of the error body.
        usd: price of the replica for the time it spent on this request, shared among the requests under way.
        retries: how often another replica was tried.
        fallback: the answer came from an engine of the route's `fallback`.
        from_cache: no engine was asked.
        side: of a rollout, `a` (as before) or `b` (the other version); None without one.
        shadow_of: id of the request this one is a copy of.
        escalated: a cascade went on to the large model.
        session: digest of what keeps a conversation together.
        stream: the answer was streamed.
        tags: of the key.
        trace: the caller's W3C `traceparent`, where it sent one.
    """

    id: str
    at: float
    endpoint: str
    key: str | None = None
    route: str | None = None
    engine: str | None = None
    version: str | None = None
    reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    first_token: float | None = None
    total: float | None = None
    status: int = 0
    error: str | None = None
    usd: float | None = None
    retries: int = 0
    fallback: bool = False
    from_cache: bool = False
    side: str | None = None
    shadow_of: str | None = None
    escalated: bool = False
    session: str | None = None
    stream: bool = False
    tags: tuple[str, ...] = ()
    trace: str | None = None


@dataclass(slots=True)
class Captured:
    """Prompt and answer of one request, for the routes that keep some.

    Attributes:
        probability: with which it was kept, for weights in later estimates.
        request, answer: bodies as JSON values; a stream's answer is put together from its chunks.
        until: Unix time at which it is erased.
    """

    id: str
    probability: float
    request: Any
    answer: Any
    until: float
