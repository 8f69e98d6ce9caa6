"""What is served equals what was trained where their next-token distributions do, along the same answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.eval.engines.reading import Reading
from llmops.eval.parity import Parity, divergence, parity, statistics_of


def logprobs(seed: int, vocabulary: int, rows: int = 5) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, vocabulary)) * 2
    return drawn - np.log(np.exp(drawn).sum(-1, keepdims=True))


def whole_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """By its definition, a token at a time."""
    return np.array([sum(math.exp(a) * (a - b) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)])


@given(seed=st.integers(0, 10_000), kept=st.integers(1, 12))
def test_it_is_the_divergence_of_all_tokens_and_never_more_where_some_are_taken_together(seed: int, kept: int) -> None:
    p, q = logprobs(seed, 12), logprobs(seed + 1, 12)
    whole = whole_kl(p, q)
    assert np.allclose(divergence(p, q), whole, atol=1e-9)
    assert (divergence(p[:, :kept], q[:, :kept]) <= whole + 1e-9).all()


def test_the_likeliest_tokens_alone_give_nearly_all_of_it() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 1000)) * 4  # as peaked as a trained model: the first 64 hold 99.6 %
    other = logits + rng.normal(size=logits.shape) * 0.3
    p, q = (one - np.log(np.exp(one).sum(-1, keepdims=True)) for one in (logits, other))
    top = np.argsort(-q, axis=1)[:, :64]
    found = divergence(np.take_along_axis(p, top, 1), np.take_along_axis(q, top, 1)).mean()
    assert whole_kl(p, q).mean() * 0.95 < found <= whole_kl(p, q).mean()


def test_the_same_distribution_is_no_distance() -> None:
    p = logprobs(3, 50)[:, :10]
    assert np.allclose(divergence(p, p), 0, atol=1e-12)


def reading(at: np.ndarray, best: list[int]) -> Reading:
    ids = np.tile(np.arange(at.shape[1]), (len(at), 1))
    return Reading(at[:, 0], np.array(best), ids, at)


def test_an_estimate_is_over_tokens_with_an_interval_over_items() -> None:
    p, q = logprobs(1, 6, rows=4), logprobs(2, 6, rows=4)
    pairs = {
        0: (reading(p[:3], [1, 2, 3]), reading(q[:3], [1, 2, 0])),
        2: (reading(p[3:], [4]), reading(q[3:], [0])),
    }
    found = parity("s", "served", (0, 1, 2), pairs)
    assert found.estimate("kl").value == pytest.approx(whole_kl(p, q).mean())
    assert found.estimate("flips").value == 2 / 4
    low, high = found.estimate("flips").interval(0.95)
    assert 0 <= low < 0.5 < high <= 1
    assert found.digest != Parity("s", "another", found.statistics, found.clusters).digest


def test_other_tokens_or_no_answer_are_refused() -> None:
    p = logprobs(1, 6)
    other = Reading(p[:, 0], np.zeros(5, np.int64), np.ones((5, 6), np.int64), p)
    with pytest.raises(ValueError, match="other tokens"):
        statistics_of(reading(p, [0] * 5), other)
    with pytest.raises(InputError, match="answered nothing"):
        parity("s", "m", (), {})
