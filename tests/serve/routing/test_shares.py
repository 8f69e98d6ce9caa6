"""Shares of the traffic are exact, sticky, grow without moving anyone back, and are independent of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2_contingency, kstest

from llmops.serve.routing.shares import chosen, place_of, shadowed, side_of, user_of
from llmops.serve.settings import Rollout, Shadow

NAMES = [f"user-{number}" for number in range(4000)]


def test_places_are_spread_evenly() -> None:
    assert kstest([place_of("p", name) for name in NAMES], "uniform").pvalue > 0.001


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_is_what_it_says(share: float) -> None:
    hits = sum(chosen("p", name, share) for name in NAMES)
    assert binomtest(hits, len(NAMES), share).pvalue > 0.001


@given(who=st.text(), purpose=st.text(), shares=st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_growing_a_share_moves_nobody_back(who: str, purpose: str, shares: list[float]) -> None:
    sides = [chosen(purpose, who, share) for share in sorted(shares)]
    assert sides == sorted(sides)
    assert 0 <= place_of(purpose, who) < 1
    assert not chosen(purpose, who, 0.0)
    assert chosen(purpose, who, 1.0)


def test_two_purposes_are_independent() -> None:
    table = np.zeros((2, 2))
    for name in NAMES:
        table[int(chosen("one", name, 0.5)), int(chosen("two", name, 0.5))] += 1
    assert chi2_contingency(table).pvalue > 0.001


def rollout(**changes: object) -> Rollout:
    return Rollout.model_validate({"engine": "large", "to": "next", "share": 0.5, **changes})


def side(of: Rollout, *, caller: str | None = None, user: str | None = None, session: str = "s") -> str:
    return side_of(of, "auto", caller=caller, body={"user": user} if user else {}, session=session)


@pytest.mark.parametrize("sticky", ["key", "user", "session"])
def test_what_is_sticky_decides_and_nothing_else(sticky: str) -> None:
    of = rollout(sticky=sticky)
    for name in NAMES[:30]:
        others = [{"caller": f"c{n}", "user": f"u{n}", "session": f"s{n}"} for n in range(8)]
        field = {"key": "caller", "user": "user", "session": "session"}[sticky]
        assert len({side(of, **{**other, field: name}) for other in others}) == 1
    assert {side(of, caller=n, user=n, session=n) for n in NAMES[:30]} == {"a", "b"}


@pytest.mark.parametrize("sticky", ["key", "user"])
def test_without_a_key_or_user_the_session_decides(sticky: str) -> None:
    assert [side(rollout(sticky=sticky), session=n) for n in NAMES[:50]] == [
        side(rollout(sticky="session"), session=n) for n in NAMES[:50]
    ]


def test_the_next_rollout_begins_with_others() -> None:
    now, later = rollout(), rollout(to="after-next")
    assert 0 < sum(side(now, session=n) != side(later, session=n) for n in NAMES[:100]) < 100


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ({"user": "u"}, "u"),
        ({"safety_identifier": "u"}, "u"),
        ({"metadata": {"user_id": "u"}}, "u"),
        ({"user": 7, "metadata": ["u"]}, None),
        ({"user": ""}, None),
        ({}, None),
    ],
)
def test_a_user_is_whom_the_body_names(body: dict[str, object], user: str | None) -> None:
    assert user_of(body) == user


def test_copies_are_a_share_of_requests_and_independent_of_the_rollout() -> None:
    shadow = Shadow(to="next", share=0.2)
    copied = [shadowed(shadow, "auto", name) for name in NAMES]
    assert binomtest(sum(copied), len(NAMES), 0.2).pvalue > 0.001
    moved = [side(rollout(share=0.2), session=name) == "b" for name in NAMES]
    both = sum(one and other for one, other in zip(copied, moved, strict=True))
    assert binomtest(both, len(NAMES), 0.04).pvalue > 0.001
