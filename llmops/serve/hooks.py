"""What the gateway asks of its other parts: who may ask, where a request goes, and who writes down what happened.

None of these may block, unless they say so: they are called on the event loop, between two requests. What is slow goes
through a queue of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llmops.serve.entry import Captured, Entry
from llmops.serve.settings import AnyRoute


class Caller(Protocol):
    """Who asks."""

    @property
    def id(self) -> str | None:
        """Of the key, never its secret; None where no key is asked for."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Of the key, for the ledger."""


class Hold(Protocol):
    """What a request may take of its key's limits, until it is known what it took."""

    def settle(self, tokens: int | None, usd: float | None) -> None:
        """Called once, at the end of every request.

        Args:
            tokens: 0 where no engine answered; None where it is not known what the engine did, because the client
                left: then what was reserved counts.
            usd: what the engine's time cost; None where it has no price, or was not asked.
        """


class Gatekeeper(Protocol):
    """Keys and their limits."""

    def who(self, secret: str | None) -> Caller:
        """The caller with this key, as it came in `Authorization: Bearer` or `x-api-key`.

        Raises:
            Refusal: 401; there is no such key, or it has expired.
        """

    def may(self, caller: Caller, route: str) -> bool:
        """The caller's key allows this route."""

    def reserve(self, caller: Caller, tokens: int) -> Hold:
        """Let one request in that will take about so many tokens, prompt and answer together.

        Raises:
            Refusal: 429 with `retry_after`; the key's limits are reached.
        """


@dataclass(frozen=True, slots=True)
class Anybody:
    """A caller without a key."""

    id: None = None
    tags: tuple[str, ...] = ()


class Everybody:
    """The gatekeeper of a gateway without keys: all may ask for everything."""

    _somebody = Anybody()

    def who(self, secret: str | None) -> Caller:
        return self._somebody

    def may(self, caller: Caller, route: str) -> bool:
        return True

    def reserve(self, caller: Caller, tokens: int) -> Hold:
        return self

    def settle(self, tokens: int | None, usd: float | None) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as a policy sees it.

    Attributes:
        route: the model name asked for, and `settings` what gateway.yaml says of it.
        endpoint: such as `/v1/chat/completions`.
        headers: names in lower case.
        caller: id of the key.
    """

    route: str
    settings: AnyRoute
    endpoint: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    caller: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a request goes.

    Attributes:
        engine: the one that answers.
        reason: in a few words, for `x-llmops-route` and the ledger.
        session: digest of what keeps the conversation together; its requests go to one replica.
        side: of a rollout.
        shadow: an engine that gets a copy.
        larger: the engine to ask where `Policy.sure` says no of the answer (a cascade).
    """

    engine: str
    reason: str
    session: str | None = None
    side: Literal["a", "b"] | None = None
    shadow: str | None = None
    larger: str | None = None


class Policy(Protocol):
    """Which engine answers."""

    def choose(self, ask: Ask) -> Choice:
        """Decided from the request alone, before the first byte."""

    def sure(self, ask: Ask, logprobs: Sequence[Sequence[float]]) -> bool:
        """Whether an answer that may go on to `Choice.larger` stands.

        Args:
            logprobs: of each choice, the natural logarithms of its tokens' probabilities.
        """


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a client says of one answer.

    Attributes:
        request: its `x-request-id`.
        score: in the client's own scale.
        correction: what the answer should have been.
        caller: id of the key.
        at: Unix time.
    """

    request: str
    at: float
    caller: str | None = None
    thumbs: Literal["up", "down"] | None = None
    score: float | None = None
    comment: str | None = None
    correction: str | None = None


class Recorder(Protocol):
    """The ledger, and what is kept for feedback."""

    def record(self, entry: Entry) -> None:
        """Called once for every request, at its end."""

    def capture(self, captured: Captured, *, redact: bool) -> None:
        """Called after `record`, for the requests that are kept."""

    def feedback(self, given: Feedback) -> None:
        """Called in a thread: it may look into the database.

        Raises:
            Refusal: it cannot be taken, such as 404 for a request that nobody made.
        """


@dataclass(frozen=True, slots=True)
class ReplicaNow:
    """One replica at this moment; `breaker` is closed where requests go through."""

    engine: str
    number: int
    url: str
    state: str
    reason: str
    in_flight: int
    breaker: Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class Now:
    """The gateway at this moment.

    Attributes:
        under_way: requests that are being answered, those that wait included.
        waiting: by engine, requests that wait for a replica.
        counts: since the start, by (what, route): `cache_hit`, `cache_miss`, `shadow_left_out`, `retry_refused`.
    """

    draining: bool
    under_way: int
    replicas: tuple[ReplicaNow, ...]
    waiting: Mapping[str, int]
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Metrics(Protocol):
    """What Prometheus reads."""

    def observe(self, entry: Entry) -> None:
        """Called once for every request, at its end."""

    def text(self, now: Now) -> bytes:
        """All of it, in the text format 0.0.4."""
