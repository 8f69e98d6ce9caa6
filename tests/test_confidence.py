"""A model is as sure of an answer as its tokens were probable on average."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.confidence import mean_probability


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=50))
def test_the_mean_is_of_probabilities(probabilities: list[float]) -> None:
    found = mean_probability([math.log(one) for one in probabilities])
    assert found == pytest.approx(sum(probabilities) / len(probabilities))


@pytest.mark.parametrize(
    ("logprobs", "mean"),
    [
        pytest.param([], None, id="no token tells nothing"),
        pytest.param([float("nan")], None, id="no number tells nothing"),
        pytest.param([0.5], None, id="a probability above 1 is none"),
        pytest.param([1e-6, 0.0], 1.0, id="rounding above 1 is 1"),
        pytest.param([-math.inf, 0.0], 0.5, id="an impossible token counts as 0"),
        pytest.param([-9999.0], 0.0, id="vLLM's least logprob"),
    ],
)
def test_edges(logprobs: list[float], mean: float | None) -> None:
    assert mean_probability(logprobs) == mean
