"""Questions with options: what is asked about a task, by which keys, and verdicts in the page's words."""

from __future__ import annotations

import pytest

from llmops.feedback.asking import in_words, questions, turns
from llmops.rubric import Rubric
from tests.feedback.pages.tasks_shown import CHECKED, HELPFUL, task


def test_seven_steps_and_both_bad_have_the_digits_of_their_places() -> None:
    (question,) = questions(task("pairwise"))
    assert [(one.value, one.key) for one in question.options] == [
        ("3", "1"), ("2", "2"), ("1", "3"), ("0", "4"), ("-1", "5"), ("-2", "6"), ("-3", "7"), ("both_bad", "0"),
    ]  # fmt: skip


def test_without_ties_4_chooses_nothing_and_own_labels_are_kept() -> None:
    labels = [f"step {n}" for n in range(7)]
    scale = {"kind": "pairwise", "ties": False, "labels": labels}
    rubric = Rubric.model_validate({**HELPFUL.model_dump(), "scale": scale})
    options = questions(task("pairwise", rubric=rubric))[0].options
    assert [one.key for one in options] == list("1235670")
    assert [one.label for one in options[:-1]] == [label for label in labels if label != "step 3"]


def test_each_answer_is_asked_by_itself_and_more_than_ten_steps_run_out_of_digits() -> None:
    eleven = {"kind": "likert", "labels": [str(n) for n in range(11)]}
    asked = questions(task("rating", rubric=Rubric.model_validate({**HELPFUL.model_dump(), "scale": eleven})))
    assert [one.position for one in asked] == [0, 1]
    assert [one.key for one in asked[0].options] == [*"1234567890", ""]
    assert [one.name for one in questions(task("rating", rubric=CHECKED))] == [
        "score-0-true", "score-0-rude", "score-1-true", "score-1-rude",
    ]  # fmt: skip


def test_turns_that_are_no_text_are_shown_as_json() -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "http://e.org/x"}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    first, second = turns([{"role": "user", "content": parts}, call])
    assert first.text.startswith("look\n\n```json\n")
    assert "http://e.org/x" in first.text
    assert '"name": "f"' in second.text


@pytest.mark.parametrize(
    ("asked", "verdict", "said"),
    [
        (task("pairwise"), {"kind": "pairwise", "step": 0, "both_bad": False}, "Alike"),
        (task("pairwise"), {"kind": "pairwise", "step": None, "both_bad": True}, "Both bad"),
        (task("thumbs"), {"kind": "thumbs", "up": False}, "Bad"),
        (
            task("rating", rubric=CHECKED, responses=("x",)),
            {"kind": "rating", "scores": [{"true": "yes", "rude": "no"}]},
            "Response A: Is it true?: Yes; Response A: Is it rude?: No",
        ),
        (task("ranking"), {"kind": "ranking", "groups": [[2], [0, 1]], "invalid": [3]}, "C > A = B; not usable: D"),
        (task("correction"), {"kind": "correction", "text": None}, "Right as it is"),
        (task("correction"), {"kind": "correction", "text": "so"}, "so"),
    ],
    ids=lambda value: "",
)
def test_a_verdict_in_words(asked: object, verdict: dict[str, object], said: str) -> None:
    assert in_words(asked, verdict) == said  # type: ignore[arg-type]
