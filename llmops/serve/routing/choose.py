"""Small or large, decided from the features of one request; when it cannot be told, large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmops.serve.routing.features import Features
from llmops.serve.routing.router import Router

Size = Literal["small", "large"]
SIZES: tuple[Size, ...] = get_args(Size)

Kind = Literal[
    "asked", "context", "session", "unknown", "tools", "schema", "learned", "length", "code", "mathematics", "routine"
]
"""Why, as a label of metrics holds it: one of these and nothing else."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` begins with `kind`; it holds what was measured and nothing of the prompt, in ASCII, as headers want."""

    size: Size
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What a route decides by.

    Attributes:
        router: None decides by length and marks alone.
        small_tokens: without a router, prompts of more tokens go to the large model.
        small_context: tokens of prompt and answer that fit into the small model; None where it is not known.
    """

    small_tokens: int
    router: Router | None = None
    small_context: int | None = None


def choose(seen: Features, rules: Rules, *, asked: Size | None = None, raised: bool = False) -> Decision:
    """The first of these that applies: what the client asked for, what does not fit into the small model, what cannot
    be read, tools and schemas, the router or the rules without one, and last, the conversation.

    Tools and schemas go to the large model with a router too: graded answers have none, so it cannot have learned
    what they need.

    Args:
        raised: the conversation went to the large model before; what would go to the small one stays there.
    """
    if asked is not None:
        return _decided(asked, "asked", "by header")
    if rules.small_context is not None and seen.needed > rules.small_context:
        return _decided("large", "context", f"up to {seen.needed} tokens, the small model has {rules.small_context}")
    found = _from_content(seen, rules)
    if raised and found.size == "small":
        return _decided("large", "session", "it went to the large model before")
    return found


def _from_content(seen: Features, rules: Rules) -> Decision:
    if not seen.readable:
        return _decided("large", "unknown", "no text, or not text alone")
    if seen.tools:
        return _decided("large", "tools", f"{seen.tools} may be called")
    if seen.schema:
        return _decided("large", "schema", "the answer must have a form")
    return _without_router(seen, rules) if rules.router is None else _learned(seen, rules.router)


def _learned(seen: Features, router: Router) -> Decision:
    known = router.model.known_share(seen.text)
    if known < router.known_share:
        return _decided("large", "unknown", f"{known:.0%} of its words were seen in training")
    if seen.prompt_tokens > router.tokens:
        return _decided("large", "unknown", f"about {seen.prompt_tokens} tokens, at most {router.tokens} in training")
    gap = router.model.chances(seen).gap
    side, word = ("large", "from") if gap >= router.threshold else ("small", "below")
    return _decided("large" if side == "large" else "small", "learned", f"gap {gap:.3f}, {word} {router.threshold:.3f}")


def _without_router(seen: Features, rules: Rules) -> Decision:
    if seen.prompt_tokens > rules.small_tokens:
        return _decided("large", "length", f"about {seen.prompt_tokens} tokens, small up to {rules.small_tokens}")
    if seen.code:
        return _decided("large", "code", f"{seen.code} marks")
    if seen.mathematics:
        return _decided("large", "mathematics", f"{seen.mathematics} marks")
    return _decided("small", "routine", f"about {seen.prompt_tokens} tokens, no marks")


def _decided(size: Size, kind: Kind, detail: str) -> Decision:
    return Decision(size, kind, f"{kind}: {detail}")
