"""A verdict is the last line, or a whole JSON object; anything less clear is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.eval.judge.reply import Judgement, verdict_in
from llmops.rubric import Rubric
from tests.eval.judge.rubrics import ATTRIBUTES, FORCED, LIKERT, PAIRWISE, SEVERAL

BOTH = {"right": "yes", "rude": "no"}


@pytest.mark.parametrize(
    ("reply", "rubric", "verdict"),
    [
        ("Both are fine, A says more.\nVERDICT: A", PAIRWISE, "A"),
        ("VERDICT: TIE\n\n", PAIRWISE, "TIE"),
        ("<think>VERDICT: B?</think>\nVERDICT:A", PAIRWISE, "A"),
        ('{"reason": "shorter", "verdict": "B"}', PAIRWISE, "B"),
        ('```json\n{"verdict": "B"}\n```', PAIRWISE, "B"),
        ("VERDICT: 4", LIKERT, 4),
        ('{"verdict": 4}', LIKERT, 4),
        ('VERDICT: {"right": "yes", "rude": "no"}', ATTRIBUTES, BOTH),
        ('{"verdict": {"rude": "no", "right": "yes"}}', ATTRIBUTES, BOTH),
        ('VERDICT: {"right": 3, "clear": 1}', SEVERAL, {"right": 3, "clear": 1}),
    ],
)
def test_what_is_a_verdict(reply: str, rubric: Rubric, verdict: Judgement) -> None:
    assert verdict_in(reply, rubric.scale) == verdict


@pytest.mark.parametrize(
    ("reply", "rubric"),
    [
        pytest.param("", PAIRWISE, id="silence"),
        pytest.param("VERDICT: A\nOr rather B.", PAIRWISE, id="not the last line"),
        pytest.param("I would say A", PAIRWISE, id="no form"),
        pytest.param("VERDICT: A or B", PAIRWISE, id="two"),
        pytest.param("VERDICT: a", PAIRWISE, id="another letter"),
        pytest.param("VERDICT: TIE", FORCED, id="a tie where none is allowed"),
        pytest.param("VERDICT: 6", LIKERT, id="beyond the scale"),
        pytest.param("VERDICT: 4.5", LIKERT, id="between two steps"),
        pytest.param("VERDICT: 4/5", LIKERT, id="a fraction"),
        pytest.param('{"verdict": "4"}', LIKERT, id="a number as text"),
        pytest.param('{"verdict": true}', LIKERT, id="a truth value is no step"),
        pytest.param('{"verdict": "A", "verdict": "B"}', PAIRWISE, id="a key twice"),
        pytest.param('So: {"verdict": "A"} is it', PAIRWISE, id="an object in a text"),
        pytest.param('VERDICT: {"right": "yes"}', ATTRIBUTES, id="an attribute is left out"),
        pytest.param('VERDICT: {"right": ["yes"], "rude": "no"}', ATTRIBUTES, id="a list for an answer"),
        pytest.param('VERDICT: {"right": "yes", "rude": "perhaps"}', ATTRIBUTES, id="perhaps"),
        pytest.param('VERDICT: {"right": 4, "clear": 1}', SEVERAL, id="one of several beyond the scale"),
        pytest.param('VERDICT: {"right": true, "clear": 1}', SEVERAL, id="a truth value among steps"),
        pytest.param('VERDICT: {"right": "yes", "clear": 1}', SEVERAL, id="a word among steps"),
    ],
)
def test_what_is_none(reply: str, rubric: Rubric) -> None:
    assert verdict_in(reply, rubric.scale) is None


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for rubric in (PAIRWISE, LIKERT, ATTRIBUTES, SEVERAL):
        verdict_in(text, rubric.scale)
        verdict_in(f"VERDICT: {text}", rubric.scale)
