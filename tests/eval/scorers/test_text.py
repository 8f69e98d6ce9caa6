"""An answer is right when its text is: equal, equal as SQuAD compares, or with a pattern in it."""

from __future__ import annotations

import collections
import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmops.eval.metric import Metric
from llmops.eval.scorers.catalog import Scorer
from llmops.eval.scorers.text import ExactMatch, Regex, Squad
from tests.eval.measurements import answered


def values(scorer: Scorer, answer: str, references: list[str]) -> dict[str, float]:
    return {metric.name: metric.value() for metric in scorer.measure(answered([answer], [references]))}


@pytest.mark.parametrize(
    ("answer", "lowercase", "hit"),
    [
        pytest.param("two  words\n", False, 1.0, id="white space is stripped and collapsed"),
        pytest.param("Two words", False, 0.0, id="case counts"),
        pytest.param("Two words", True, 1.0, id="unless it is asked not to"),
        pytest.param("other", False, 1.0, id="any reference will do"),
        pytest.param("two words.", False, 0.0, id="a full stop counts"),
        pytest.param("", False, 0.0, id="nothing is not right"),
    ],
)
def test_exact_match(answer: str, lowercase: bool, hit: float) -> None:
    (metric,) = ExactMatch(lowercase=lowercase).measure(answered([answer], [["two words", "other"]]))
    assert (metric.value(), metric.per_item.tolist()) == (hit, [hit])


def official_normal(text: str) -> str:
    """`normalize_answer` of evaluate-v2.0.py, step by step."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text).split())


def official_f1(gold: str, given_: str) -> float:
    """`compute_f1` of evaluate-v2.0.py."""
    gold_words, words = official_normal(gold).split(), official_normal(given_).split()
    same = sum((collections.Counter(gold_words) & collections.Counter(words)).values())
    if len(gold_words) == 0 or len(words) == 0:
        return int(gold_words == words)
    if same == 0:
        return 0
    precision, recall = same / len(words), same / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


squad_texts = st.lists(st.sampled_from(["The", "a", "an", "Theatre", "U.S.", "dog", "—", "été", ".", "1,000"])).map(
    " ".join
)


@given(squad_texts, st.lists(squad_texts, min_size=1, max_size=3))
def test_squad_is_the_official_scripts_with_the_best_reference(answer: str, references: list[str]) -> None:
    found = values(Squad(), answer, references)
    assert found["squad_f1"] == pytest.approx(max(official_f1(one, answer) for one in references), abs=1e-12)
    assert found["squad_exact_match"] == max(official_normal(one) == official_normal(answer) for one in references)


@pytest.mark.parametrize(
    ("settings", "answer", "hit"),
    [
        pytest.param({"pattern": r"^Answer: "}, "so\nAnswer: 7", 1.0, id="found at a line's start"),
        pytest.param({"pattern": r"^Answer: "}, "my Answer: 7", 0.0, id="not found"),
        pytest.param({"pattern": r"\((\w)\)"}, "first (A), then (B)", 1.0, id="the last place counts"),
        pytest.param({"pattern": r"\((\w)\)", "which": "first"}, "first (A), then (B)", 0.0, id="or the first"),
        pytest.param({"pattern": r"\((\w)\)"}, "(b)", 0.0, id="case counts"),
        pytest.param({"pattern": r"\((\w)\)", "lowercase": True}, "(b)", 1.0, id="unless it is asked not to"),
        pytest.param({"pattern": r"\((\w)\)"}, "none", 0.0, id="a group that is not there equals nothing"),
        pytest.param({"pattern": r"answer is (.*)"}, "the answer is  the\tsecond ", 1.0, id="any reference will do"),
    ],
)
def test_a_pattern(settings: dict[str, Any], answer: str, hit: float) -> None:
    assert values(Regex(**settings), answer, ["B", "the second"]) == {"regex": hit}


def test_two_patterns_of_a_suite_have_names_of_their_own() -> None:
    (metric,) = Regex(pattern="x", name="polite").measure(answered(["x"], [["r"]]))
    assert metric.name == "polite"
    assert metric.signature.endswith("pattern:x")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("(", "is no pattern"), ("(a)(b)", "has 2 groups"), ("a*", "found in every text")],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Regex(pattern=pattern)


def test_right_or_wrong_is_a_share_with_wilsons_interval() -> None:
    metrics: list[Metric] = [
        *ExactMatch().measure(answered(["a"], [["a"]])),
        *Regex(pattern="x").measure(answered(["a"], [["a"]])),
        Squad().measure(answered(["a"], [["a"]]))[1],
    ]
    assert [metric.binary for metric in metrics] == [True, True, True]
