"""An answer stands where every choice's calibrated confidence reaches the bound."""

from __future__ import annotations

import math

import pytest

from llmops.serve.routing.cascade import Sure
from llmops.serve.routing.isotonic import Steps


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
