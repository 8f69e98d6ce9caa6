"""An answer stands where every choice's calibrated confidence reaches the bound."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.routing.cascade import Sure, mean_probability
from llmops.serve.routing.isotonic import Steps


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


def answers(*means: float) -> list[list[float]]:
    return [[math.log(mean)] for mean in means]


def test_all_choices_must_be_sure() -> None:
    sure = Sure(at_least=0.8)
    assert sure.of_all(answers(0.8))
    assert sure.of_all(answers(0.9, 0.81))
    assert not sure.of_all(answers(0.9, 0.79))


def test_what_cannot_be_told_does_not_stand() -> None:
    assert not Sure(at_least=0.0).of_all([])
    assert not Sure(at_least=0.0).of_all([[]])


def test_the_bound_is_on_the_calibrated_confidence() -> None:
    overconfident = Steps((0.5, 0.9, 1.0), (0.1, 0.4, 0.9))
    assert Sure(0.8, overconfident).confidence([math.log(0.9)]) == pytest.approx(0.4)
    assert not Sure(0.8, overconfident).of_all(answers(0.95))
    assert Sure(0.8, overconfident).of_all(answers(0.99))
