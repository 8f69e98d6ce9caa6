"""Requests are kept by chance, with the probability that later estimates need, and copied ones always."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmops.serve.entry import Entry
from llmops.serve.keeping import MOST_BYTES, Keeping
from llmops.serve.settings import Direct


def route(**others: Any) -> Direct:
    return Direct.model_validate({"policy": "direct", "engine": "e", **others})


def test_a_route_that_says_nothing_keeps_nothing() -> None:
    assert Keeping.decided(route(), b"{}", shadowed=True) is None
    assert Keeping.decided(route(capture={"share": 0}), b"{}") is None


def test_the_share_is_kept() -> None:
    decided = [Keeping.decided(route(capture={"share": 0.3}), b"{}") for _ in range(4000)]
    kept = [one for one in decided if one is not None]
    # Five standard deviations of the binomial.
    assert abs(len(kept) - 1200) < 5 * math.sqrt(4000 * 0.3 * 0.7)
    assert {one.probability for one in kept} == {0.3}


def test_of_two_chances_either_suffices() -> None:
    kept = Keeping.decided(route(capture={"share": 0.1}, shadow={"to": "f", "share": 0.5}), b"{}", shadowed=True)
    assert kept is not None
    assert kept.probability == pytest.approx(0.1 + 0.5 - 0.1 * 0.5)


def test_it_is_kept_for_its_days_and_no_longer_than_it_may_be() -> None:
    kept = Keeping.decided(route(capture={"share": 1, "keep_days": 2}), b"{}")
    assert kept is not None
    captured = kept.captured(Entry(id="r", at=1000.0, endpoint="/v1/completions"), b"[]")
    assert captured is not None
    assert (captured.id, captured.request, captured.answer, captured.until) == ("r", b"{}", b"[]", 1000.0 + 2 * 86_400)
    assert kept.captured(Entry(id="r", at=0, endpoint=""), b"x" * MOST_BYTES) is None
