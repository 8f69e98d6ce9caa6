"""What is served and to whom, as users write it in configs/*.yaml: engines, the routes to them, limits and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from llmops.config import Settings, Where, refuse
from llmops.errors import nearest
from llmops.listening import Address, Listens

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Restart(Settings):
    """What happens when an engine ends by itself."""

    first_wait_s: PositiveFloat = 1.0
    """Seconds before the first restart; doubles with each that follows."""
    longest_wait_s: PositiveFloat = 60.0
    """Longest wait between two restarts, in seconds."""
    attempts: PositiveInt = 5
    """Ends within `window_s` after which the engine is given up as failed and says why, until it is reloaded."""
    window_s: PositiveFloat = 600.0
    """Seconds over which ends are counted."""


class LocalEngine(Settings):
    """A vLLM server that llmops starts, watches and stops."""

    model: str
    """A folder, or models:/name@alias, models:/name/3; an adapter is served on its base, and engines whose adapters
    share a base and all options share one server, so that its weights are loaded once."""
    quantization: str | None = None
    """Serve the version that `llmops quantize` made from the model by this scheme, such as w4a16."""
    replicas: PositiveInt = 1
    """Servers with the same model; requests go to the one with the least to do."""
    gpus: PositiveInt = 1
    """GPUs of each replica (tensor parallel); a machine without a GPU serves on the CPU."""
    max_length: PositiveInt | None = None
    """Tokens of prompt and answer together; null takes what the model was made for. Costs memory in proportion."""
    python: Path | None = None
    """Interpreter of a virtual environment with another vLLM; null takes this one."""
    vllm: dict[str, bool | int | float | str | list[str]] = Field(default_factory=dict)
    """Other options of vLLM's server by name without dashes, such as gpu_memory_utilization; checked before start."""
    require: Literal["promoted", "none"] | None = None
    """promoted: bytes, a PASS and an approval are checked before it serves; none: they are not, which is said aloud.
    null asks for promoted where the model is an alias or version of the registry, and for none where it is a folder."""
    ready_timeout_s: PositiveFloat = 900.0
    """Seconds until the first real answer, after which a start has failed."""
    usd_per_gpu_hour: NonNegativeFloat | None = None
    """Price of a GPU, or of the machine without one, for the cost in the ledger."""
    restart: Restart = Restart()
    """What happens when it ends by itself."""


class RemoteEngine(Settings):
    """A server that somebody else runs: any OpenAI-compatible one."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """Its address, up to and with /v1."""
    model: str
    """The name of the model there."""
    api_key_env: str | None = None
    """Environment variable that holds the key."""
    max_length: PositiveInt | None = None
    """Tokens of prompt and answer together; null leaves it to the server to refuse."""
    usd_per_gpu_hour: NonNegativeFloat | None = None
    """Price of its machine, for the cost in the ledger."""


def _kind_of_engine(value: Any) -> str:
    asked = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return "remote" if "url" in asked else "local"


AnyEngine = Annotated[
    Annotated[LocalEngine, Tag("local")] | Annotated[RemoteEngine, Tag("remote")], Discriminator(_kind_of_engine)
]


class Rollout(Settings):
    """Some of the traffic goes to another version."""

    engine: Name
    """The engine that loses traffic, one of the route's."""
    to: Name
    """The engine that gets it."""
    share: Share
    """Share of keys, users or sessions (0 to 1) that go there; the same ones stay there while the share grows."""
    sticky: Literal["key", "user", "session"] = "session"
    """What stays on one side: the caller's key, the request's `user`, or its `x-session-id` (the first message where
    there is none)."""


class Shadow(Settings):
    """A copy of some requests goes to another engine, too; what it answers goes to nobody and is kept for grading."""

    to: Name
    """The engine that gets the copies."""
    share: Share
    """Share of requests (0 to 1) that are copied."""
    at_once: PositiveInt = 8
    """Copies under way at a time; more are left out and counted, so that copies never hold up what is served."""


class Capture(Settings):
    """Which prompts and answers are kept, for feedback and evaluation."""

    share: Share
    """Share of requests (0 to 1) that are kept, chosen by chance."""
    redact: bool = True
    """Replace e-mail addresses, card and account numbers and telephone numbers before anything is written."""
    keep_days: PositiveFloat = 30.0
    """Days after which they are erased."""


class Cache(Settings):
    """The same request at temperature 0 gets the same answer, without an engine."""

    entries: PositiveInt = 10_000
    """Answers that are held in memory; the ones not asked for longest go first."""
    seconds: PositiveFloat = 3600.0
    """Seconds an answer is held."""
    across_keys: bool = False
    """Let one key see what another was answered; only for what everybody may know."""


class AnyRoute(Settings):
    """What every route says."""

    fallback: list[Name] = Field(default_factory=list)
    """Engines asked, in this order, when the chosen one is down; the answer then says so in `x-llmops-fallback`."""
    timeout_s: PositiveFloat = 600.0
    """Seconds for a whole answer."""
    first_byte_s: PositiveFloat = 120.0
    """Seconds until an engine begins a stream, after which another replica is tried; an answer in one piece has
    `timeout_s`, since it begins when it is finished."""
    queue: NonNegativeInt = 256
    """Requests that may wait for an engine; more are refused at once with 429."""
    queue_s: PositiveFloat = 30.0
    """Seconds a request waits for an engine at most; then it is refused with 503."""
    rollout: Rollout | None = None
    """Send a share of an engine's traffic to another version."""
    shadow: Shadow | None = None
    """Send copies of a share of the requests to another engine."""
    capture: Capture | None = None
    """Keep prompts and answers of a share of the requests; null keeps none."""
    cache: Cache | None = None
    """Answer repeated requests at temperature 0 from memory; null never does."""

    def engines(self) -> Iterator[tuple[Where, str]]:
        """Every engine the route names, with the key that names it."""
        for place, name in enumerate(self.fallback):
            yield ("fallback", place), name
        if self.rollout is not None:
            yield ("rollout", "engine"), self.rollout.engine
            yield ("rollout", "to"), self.rollout.to
        if self.shadow is not None:
            yield ("shadow", "to"), self.shadow.to


class Direct(AnyRoute):
    """One engine answers everything."""

    policy: Literal["direct"]
    """direct: one engine answers everything."""
    engine: Name
    """The engine."""

    def engines(self) -> Iterator[tuple[Where, str]]:
        yield ("engine",), self.engine
        yield from super().engines()


class TwoSizes(AnyRoute):
    """A small and a large model, and what both policies between them decide from the request alone."""

    small: Name
    """The engine for routine requests; in a cascade the one that answers first."""
    large: Name
    """The engine for hard ones, and for what cannot be told; in a cascade where the small one was not sure."""
    router: Path | None = None
    """What `llmops route calibrate` learned. null decides by length and marks alone, and in a cascade takes
    `confidence`."""
    small_tokens: PositiveInt = 512
    """Without a router: prompts estimated to be longer than this many tokens go to the large model. In a
    cascade: of what is routed by size there, which is streams and endpoints that tell no probabilities."""
    session_hours: PositiveFloat = 24.0
    """Hours for which a conversation that went to the large model stays there."""

    def engines(self) -> Iterator[tuple[Where, str]]:
        yield ("small",), self.small
        yield ("large",), self.large
        yield from super().engines()


class BySize(TwoSizes):
    """A small model for routine requests, a large one for hard ones, decided from the request alone."""

    policy: Literal["size"]
    """size: decided before the first byte, from the request alone."""


class Cascade(TwoSizes):
    """The small model answers first; where it is not sure enough, the large one answers instead."""

    policy: Literal["cascade"]
    """cascade: the small model first. A stream cannot be taken back, so it is routed by size instead."""
    confidence: Share = 0.8
    """Without a router: the mean probability of the answer's tokens below which the large model is asked."""


Route = Annotated[Direct | BySize | Cascade, Discriminator("policy")]


class Keys(Settings):
    """Who may ask."""

    file: Path
    """The keys, hashed, as `llmops serve key create` writes them; read again when it changes."""


class Limits(Settings):
    """What one request, and all together, may take."""

    body_mb: PositiveFloat = 10.0
    """Largest body in MB; more gets 413."""
    headers_kb: PositiveFloat = 32.0
    """Largest headers in kB; more gets 431."""
    body_s: PositiveFloat = 30.0
    """Seconds in which a body must have come; then 408."""
    in_flight: PositiveInt = 256
    """Requests under way at one replica; more wait."""
    retry_share: Share = 0.1
    """Retries to replicas as a share of requests, over the last seconds; the budget that keeps a fault from doubling
    the load."""
    drain_s: PositiveFloat = 300.0
    """Seconds that answers under way get to end after SIGTERM."""


class Ledger(Settings):
    """The record of every request."""

    keep_days: PositiveFloat | None = None
    """Days after which rows are erased; null keeps them."""
    behind_rows: PositiveInt = 100_000
    """Rows held in memory while the database cannot take them; beyond that the oldest are dropped and counted."""


class Telemetry(Settings):
    """What is told to other systems."""

    traces: str | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318; null sends no traces."""
    trace_share: Share = 1.0
    """Share of requests (0 to 1) that are traced."""
    log: Path | None = None
    """File of the log, a line of JSON for every request, without bodies; null writes to standard error."""


class Gateway(Listens):
    """The gateway, its engines and its routes."""

    listen: Address = "127.0.0.1:8000"
    """Address and port. Without `keys` only one of this machine alone (127.0.0.1, localhost, [::1]); port 0 takes a
    free one and says which."""
    engines: Annotated[dict[Name, AnyEngine], Field(min_length=1)]
    """By name: servers to start, and servers that run elsewhere."""
    routes: Annotated[dict[Name, Route], Field(min_length=1)]
    """By the model name that clients ask for."""
    keys: Keys | None = None
    """Who may ask; null lets everybody on this machine, and nobody else."""
    limits: Limits = Limits()
    """What one request, and all together, may take."""
    ledger: Ledger = Ledger()
    """The record of every request."""
    telemetry: Telemetry = Telemetry()
    """What is told to other systems."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems: dict[Where, str] = {
            ("routes", route, *key): f"there is no engine {engine!r}{nearest(engine, self.engines)}"
            for route, settings in self.routes.items()
            for key, engine in settings.engines()
            if engine not in self.engines
        }
        if self.keys is None and not self.loopback:
            problems["listen",] = "others could reach it: name `keys`, or listen on 127.0.0.1"
        for route, settings in self.routes.items():
            moved = settings.rollout
            asked = {name for key, name in settings.engines() if len(key) == 1}
            if moved is not None and moved.engine in self.engines and moved.engine not in asked:
                problems["routes", route, "rollout", "engine"] = f"the route asks nothing of {moved.engine!r}"
        refuse(problems)
        return self
