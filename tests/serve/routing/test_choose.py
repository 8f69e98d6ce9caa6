"""Small only where it can be told that small will do; every decision says why, in one of a few words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.routing.choose import KINDS, Rules, choose
from llmops.serve.routing.features import features_of, features_of_text
from llmops.serve.routing.router import Model, Router

ROUTINE = features_of_text("What is the capital of France?")
ALONE = Rules(small_tokens=100)


def router(threshold: float, *, known_share: float = 0.0, tokens: int = 1000, gap: float = 0.3) -> Router:
    """A router that finds the same gap in every prompt that it knows a word of."""
    model = Model(pairs=False, terms={"capital": (1.0, 0.0, 0.0)}, measures=(), small=0.0, large=_logit(0.5 + gap))
    parts: dict[str, Any] = {"threshold": threshold, "known_share": known_share, "tokens": tokens, "model": model}
    return Router.model_construct(**parts)


def _logit(chance: float) -> float:
    return math.log(chance / (1 - chance))


LEARNED = Rules(100, router(0.2, gap=0.3))


@pytest.mark.parametrize(
    ("text", "size", "kind"),
    [
        ("What is the capital of France?", "small", "routine"),
        ("word " * 150, "large", "length"),
        ("Why does ```x = 1``` fail?", "large", "code"),
        ("Solve the equation 2x = 4", "large", "mathematics"),
        ("", "large", "unknown"),
    ],
)
def test_without_a_router_length_and_marks_decide(text: str, size: str, kind: str) -> None:
    found = choose(features_of_text(text), ALONE)
    assert (found.size, found.kind) == (size, kind)


@pytest.mark.parametrize(("threshold", "size"), [(0.2, "large"), (0.29, "large"), (0.31, "small")])
def test_with_a_router_its_gap_decides(threshold: float, size: str) -> None:
    found = choose(ROUTINE, Rules(100, router(threshold, gap=0.3)))
    assert (found.size, found.kind) == (size, "learned")
    assert found.reason.startswith("learned: gap 0.300")


def test_a_prompt_unlike_those_of_training_goes_to_the_large_model() -> None:
    """Neither by its words, nor by its length."""
    strange = choose(ROUTINE, Rules(100, router(0.9, known_share=0.5)))
    assert (strange.size, strange.kind) == ("large", "unknown")
    assert choose(features_of_text("capital"), Rules(100, router(0.9, known_share=0.5))).size == "small"
    long = choose(ROUTINE, Rules(100, router(0.9, tokens=5)))
    assert (long.size, long.kind) == ("large", "unknown")


@pytest.mark.parametrize("rules", [ALONE, Rules(100, router(0.9))], ids=["rules", "router"])
@pytest.mark.parametrize(
    ("others", "kind"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "schema"),
    ],
)
def test_tools_and_schemas_go_to_the_large_model(rules: Rules, others: dict[str, Any], kind: str) -> None:
    found = choose(features_of({"prompt": "What is the capital of France?", **others}), rules)
    assert (found.size, found.kind) == ("large", kind)


@pytest.mark.parametrize("rules", [ALONE, Rules(100, router(0.9))], ids=["rules", "router"])
def test_what_does_not_fit_into_the_small_model_goes_to_the_large_one(rules: Rules) -> None:
    fits, over = (replace(rules, small_context=ROUTINE.needed - extra) for extra in (0, 1))
    assert choose(ROUTINE, fits).size == "small"
    found = choose(ROUTINE, over)
    assert (found.size, found.kind) == ("large", "context")
    assert choose(replace(ROUTINE, needed=ROUTINE.needed + 500), fits).kind == "context"


def test_a_conversation_that_went_up_stays_there() -> None:
    found = choose(ROUTINE, ALONE, raised=True)
    assert (found.size, found.kind) == ("large", "session")
    assert choose(features_of_text("word " * 150), ALONE, raised=True).kind == "length"


@pytest.mark.parametrize("size", ["small", "large"])
def test_what_the_client_asks_for_goes_before_everything(size: Any) -> None:
    for seen in (ROUTINE, features_of_text("word " * 500), features_of({"prompt": [1]})):
        found = choose(seen, replace(ALONE, small_context=10), asked=size, raised=True)
        assert (found.size, found.kind) == (size, "asked")


@given(
    text=st.text(max_size=400),
    tools=st.integers(0, 2),
    raised=st.booleans(),
    rules=st.sampled_from([ALONE, LEARNED, replace(ALONE, small_context=20)]),
)
def test_a_reason_fits_into_a_header_and_begins_with_a_word_of_few(
    text: str, tools: int, raised: bool, rules: Rules
) -> None:
    found = choose(features_of({"prompt": text, "tools": [{}] * tools}), rules, raised=raised)
    assert found.kind in KINDS
    assert found.reason.startswith(f"{found.kind}: ")
    assert found.reason.isascii()
    assert found.reason.isprintable()
    assert len(found.reason) < 120
    assert not raised or found.size == "large"
