"""The engine of each request: the settings of its route, applied to what the request is and who sent it.

Imports no library beyond the gateway's own; each decision is made on the event loop, in about a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmops.serve.hooks import Ask, Choice
from llmops.serve.refusal import bad_request
from llmops.serve.routing.body import turns_of
from llmops.serve.routing.cascade import Sure
from llmops.serve.routing.choose import SIZES, Decision, Rules, Size, choose
from llmops.serve.routing.features import features_of
from llmops.serve.routing.router import Router, read_router
from llmops.serve.routing.sessions import Sessions, session_of
from llmops.serve.routing.shares import shadowed, side_of
from llmops.serve.settings import AnyRoute, BySize, Cascade, Direct, Gateway, TwoSizes
from llmops.serve.targets import Targets

SIZE_HEADER = "x-llmops-size"
_SAYS_PROBABILITIES = {"/v1/chat/completions", "/v1/completions"}


class Routing:
    """The policy of one gateway.

    A reload makes a new one from the new settings and the old one's sessions, so that no conversation comes down.

    Args:
        routers: by route, where it names one.
        targets: whose `max_length` says what fits into the small model.
        clock: seconds that do not go back.
    """

    def __init__(
        self,
        routers: Mapping[str, Router],
        targets: Targets,
        *,
        sessions: Sessions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sessions = sessions if sessions is not None else Sessions()
        self._routers = dict(routers)
        self._sure = {name: one.confidence.sure() for name, one in self._routers.items() if one.confidence is not None}
        self._targets = targets
        self._clock = clock

    def choose(self, ask: Ask) -> Choice:
        """Decided from the request alone.

        Raises:
            Refusal: 400; the header asks for a size that there is not.
        """
        session = session_of(ask.body, ask.headers, ask.caller)
        settings = ask.settings
        match settings:
            case Direct():
                made = Choice(settings.engine, "direct: the route has one engine", session)
            case BySize():
                made = self._by_size(ask, settings, session)
            case Cascade():
                made = self._cascade(ask, settings, session)
            case _:
                raise ValueError(f"no policy for a route of {type(settings).__name__}")
        return _shared(made, ask, session)

    def sure(self, ask: Ask, logprobs: Sequence[Sequence[float]]) -> bool:
        """Whether the small model's answer stands; if not, the conversation belongs to the large one from now on."""
        assert isinstance(ask.settings, Cascade)
        stands = (self._sure.get(ask.route) or Sure(ask.settings.confidence)).of_all(logprobs)
        if not stands:
            self._raise(session_of(ask.body, ask.headers, ask.caller), ask, ask.settings)
        return stands

    def _by_size(self, ask: Ask, settings: BySize, session: str) -> Choice:
        decision = self._decided(ask, settings, session)
        return self._sent(decision, ask, settings, session)

    def _cascade(self, ask: Ask, settings: Cascade, session: str) -> Choice:
        """A stream cannot be taken back, and other endpoints do not say how probable tokens were: both are routed by
        size. What is sure to need the large model goes there."""
        decision = self._decided(ask, settings, session)
        at_once = bool(ask.body.get("stream")) or ask.endpoint not in _SAYS_PROBABILITIES
        if at_once or decision.kind in ("asked", "context", "session"):
            return self._sent(decision, ask, settings, session)
        return Choice(settings.small, "cascade: the small model first", session, larger=settings.large)

    def _decided(self, ask: Ask, settings: TwoSizes, session: str) -> Decision:
        rules = Rules(settings.small_tokens, self._routers.get(ask.route), self._context(settings.small))
        seen = features_of(ask.body)
        # Two conversations may begin with the same words: without an id, the first message belongs to none yet.
        goes_on = seen.answers > 0 or "x-session-id" in ask.headers
        raised = goes_on and self.sessions.raised(_of_route(session, ask.route), now=self._clock())
        return choose(seen, rules, asked=_asked(ask.headers), raised=raised)

    def _sent(self, decision: Decision, ask: Ask, settings: TwoSizes, session: str) -> Choice:
        """The choice that a decision is; a conversation that goes to the large model belongs there from now on."""
        if decision.size == "small":
            return Choice(settings.small, decision.reason, session)
        self._raise(session, ask, settings)
        return Choice(settings.large, decision.reason, session)

    def _raise(self, session: str, ask: Ask, settings: TwoSizes) -> None:
        seconds = 3600 * settings.session_hours
        self.sessions.raise_(_of_route(session, ask.route), now=self._clock(), seconds=seconds)

    def _context(self, engine: str) -> int | None:
        known = [one.max_length for one in self._targets.of(engine) if one.max_length is not None]
        return min(known) if known else None


def routers_of(settings: Gateway) -> dict[str, Router]:
    """The routers that the routes name, each file read once.

    Raises:
        InputError: one cannot be read.
    """
    files: dict[Path, Router] = {}
    found = {}
    for name, route in settings.routes.items():
        if isinstance(route, TwoSizes) and route.router is not None:
            if route.router not in files:
                files[route.router] = read_router(route.router)
            found[name] = files[route.router]
    return found


def _asked(headers: Mapping[str, str]) -> Size | None:
    given = headers.get(SIZE_HEADER)
    if given is None:
        return None
    for size in SIZES:
        if given.strip().lower() == size:
            return size
    raise bad_request(f"{SIZE_HEADER} must be small or large", code="invalid_size")


def _shared(made: Choice, ask: Ask, session: str) -> Choice:
    """With the sides of a rollout and the shadow of the route."""
    settings: AnyRoute = ask.settings
    moved = settings.rollout
    if moved is not None and moved.engine in (made.engine, made.larger):
        side = side_of(moved, ask.route, caller=ask.caller, body=ask.body, session=session)
        made = replace(made, side=side)
        if side == "b":
            made = replace(
                made,
                engine=moved.to if made.engine == moved.engine else made.engine,
                larger=moved.to if made.larger == moved.engine else made.larger,
            )
    if settings.shadow is not None and shadowed(settings.shadow, ask.route, _request(ask, session)):
        made = replace(made, shadow=settings.shadow.to)
    return made


def _request(ask: Ask, session: str) -> str:
    """What tells a request from others: its id, or else its conversation and how far that is."""
    given = ask.headers.get("x-request-id")
    if given:
        return given
    turns = turns_of(ask.body)
    return f"{session} {len(turns)} {turns[-1].text if turns else ''}"


def _of_route(session: str, route: str) -> str:
    return f"{route} {session}"
