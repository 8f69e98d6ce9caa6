"""A rubric is a question on a scale; people and judges answer the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmops.errors import FileFaults
from llmops.rubric import Attributes, Likert, Pairwise, Rubric, choice_of, load_rubric, value_of

SHIPPED = Path(__file__).parents[1] / "feedback" / "rubrics"


def rubric(scale: dict[str, Any], **others: Any) -> Rubric:
    return Rubric.model_validate({"name": "r", "version": 1, "question": "How good?", "scale": scale, **others})


def test_the_shipped_rubrics_have_the_scales_they_say() -> None:
    helpfulness, fluency = (load_rubric(SHIPPED / f"{name}.yaml") for name in ("helpfulness", "fluency"))
    assert isinstance(helpfulness.scale, Pairwise)
    assert helpfulness.scale.steps == (3, 2, 1, 0, -1, -2, -3)
    assert isinstance(fluency.scale, Likert)
    assert fluency.scale.steps == (1, 2, 3, 4, 5)


def test_a_step_prefers_the_first_above_nothing_and_the_second_below() -> None:
    assert [choice_of(step) for step in (3, 1, 0, -1, -3)] == ["A", "A", "TIE", "B", "B"]


def test_a_choice_may_be_forced() -> None:
    scale = rubric({"kind": "pairwise", "ties": False}).scale
    assert isinstance(scale, Pairwise)
    assert (scale.choices, 0 in scale.steps) == (("A", "B"), False)


def test_a_rating_is_a_number_from_nothing_to_one() -> None:
    likert = Likert(kind="likert", labels=["bad", "so", "good"])
    assert [value_of(likert, step) for step in likert.steps] == [0.0, 0.5, 1.0]
    attributes = Attributes.model_validate(
        {"kind": "attributes", "attributes": {"right": {"question": "?"}, "rude": {"question": "?", "good": "no"}}}
    )
    assert value_of(attributes, {"right": "yes", "rude": "no"}) == 1.0
    assert value_of(attributes, {"right": "yes", "rude": "yes"}) == 0.5
    several = load_rubric(SHIPPED / "quality.yaml").scale
    assert isinstance(several, Attributes)
    assert several.answers == (1, 2, 3, 4, 5)
    assert value_of(several, {"correct": 5, "complete": 3, "clear": 1}) == 0.5, "of several steps the mean"


def test_other_words_are_another_rubric() -> None:
    scale = {"kind": "likert", "labels": ["bad", "good"]}
    assert rubric(scale).digest == rubric(scale).digest
    assert rubric(scale).digest != rubric(scale, question="How bad?").digest
    assert rubric(scale).digest != rubric({**scale, "labels": ["poor", "good"]}).digest


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        pytest.param("{kind: likert, labels: [one]}", "at least 2", id="one step"),
        pytest.param("{kind: pairwise, labels: [a, b]}", "at least 7", id="two of seven labels"),
        pytest.param("{kind: attributes, attributes: {}}", "at least 1", id="no attribute"),
        pytest.param("{kind: attributes, attributes: {a: {question: x, good: maybe}}}", "'yes' or 'no'", id="maybe"),
        pytest.param(
            "{kind: attributes, labels: [bad, good], attributes: {a: {question: x, good: no}}}",
            "ask the other way",
            id="steps turned around",
        ),
        pytest.param("{kind: stars}", "kind", id="an unknown kind"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(tmp_path: Path, scale: str, says: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"name: r\nversion: 1\nquestion: How good?\nscale: {scale}\n")
    with pytest.raises(FileFaults, match=says):
        load_rubric(file)
