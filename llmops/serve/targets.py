"""What requests can be sent to right now: the fleet of engines writes it, the gateway reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

State = Literal["starting", "ready", "waiting", "failed", "stopped"]
"""`waiting`: it ended and is started again soon; `failed`: it is given up."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Replica:
    """One server process, ours or somebody else's.

    Attributes:
        engine: of gateway.yaml; of those that share the process, their names with `+` between.
        url: up to and without /v1.
        key: for the `Authorization` header of a server that wants one.
        reason: why it is not ready, in words for `llmops serve status`.
        usd_per_hour: what it costs; None where it is not known.
        in_flight: requests under way, kept by the gateway.
    """

    engine: str
    number: int
    url: str
    key: str | None = field(default=None, repr=False)
    state: State = "starting"
    reason: str = ""
    usd_per_hour: float | None = None
    in_flight: int = 0


@dataclass(slots=True, eq=False)
class Use:
    """How much a target is used; what nobody uses any more can be taken from its server."""

    in_flight: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A model on a replica: what one request is sent to.

    Attributes:
        model: what the server calls it, the `model` of the request's body.
        version: what the ledger calls it, such as `models:/e2e-nlg/3`, a folder, or the name at a remote server.
        digest: sha256 of the artifact; None for a remote one, whose bytes are not seen.
        max_length: tokens of prompt and answer together; None where it is not known.
        use: requests under way at this model of the replica, kept by the gateway beside `Replica.in_flight`.
    """

    replica: Replica
    model: str
    version: str
    digest: str | None = None
    max_length: int | None = None
    use: Use = field(default_factory=Use)


class Targets:
    """By engine of gateway.yaml; replaced as a whole when one changes, so that a request sees one version."""

    def __init__(self) -> None:
        self._by_engine: dict[str, tuple[Target, ...]] = {}

    def set(self, engine: str, targets: Iterable[Target]) -> None:
        """From now on new requests to `engine` go to these; what is under way ends where it is."""
        self._by_engine[engine] = tuple(targets)

    def of(self, engine: str) -> tuple[Target, ...]:
        """Every target of `engine`, ready or not."""
        return self._by_engine.get(engine, ())

    def ready(self, engine: str) -> tuple[Target, ...]:
        """The targets of `engine` that can be asked."""
        return tuple(one for one in self.of(engine) if one.replica.state == "ready")
