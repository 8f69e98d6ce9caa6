"""A judge's prompt is a template with exactly the placeholders its rubric fills."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.eval.judge.prompt import JudgePrompt, conversation, load_prompt, verdict_text
from llmops.eval.judge.reply import verdict_in
from llmops.rubric import Rubric, load_rubric
from tests.conftest import REPOSITORY
from tests.eval.judge.rubrics import ATTRIBUTES, FORCED, LIKERT, PAIRWISE, RATE, SEVERAL


@pytest.mark.parametrize(("prompt", "rubric"), [("rating", "fluency"), ("pairwise", "helpfulness")])
def test_a_shipped_prompt_fits_a_shipped_rubric_and_says_how_to_end(prompt: str, rubric: str) -> None:
    asked = load_rubric(REPOSITORY / "feedback" / "rubrics" / f"{rubric}.yaml")
    found = load_prompt(REPOSITORY / "eval" / "judges" / f"{prompt}.md", asked)
    text = found.filled(prompt="P", answer="{answer} is a brace", first="F", second="S", reference="")
    assert asked.question in text
    assert text.endswith(verdict_text(asked))
    assert ("{answer} is a brace" in text) is (prompt == "rating")


def test_every_shipped_prompt_fits_one_of_the_two_kinds() -> None:
    for file in (REPOSITORY / "eval" / "judges").glob("*.md"):
        assert any(_fits(file, rubric) for rubric in (LIKERT, PAIRWISE)), file


def _fits(file: Path, rubric: Rubric) -> bool:
    try:
        load_prompt(file, rubric)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("template", "rubric", "says"),
    [
        ("{prompt} {answer}", LIKERT, "lacks {verdict}"),
        ("{prompt} {answer} {verdict}", PAIRWISE, "lacks {first}, {second}|{answer}, which nothing fills"),
        ("{prompt} {first} {second} {verdict}", LIKERT, "{first}, which nothing fills"),
        ("{prompt} {answer} {verdict} {refrence}", LIKERT, "did you mean `reference`"),
        ("{prompt} {answer} {verdict} {", LIKERT, "single `{`"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(tmp_path: Path, template: str, rubric: Rubric, says: str) -> None:
    file = tmp_path / "p.md"
    file.write_text(template)
    with pytest.raises(InputError) as caught:
        load_prompt(file, rubric)
    assert any(one in str(caught.value) for one in says.split("|"))
    with pytest.raises(InputError, match="cannot be read"):
        load_prompt(tmp_path / "none.md", rubric)


@pytest.mark.parametrize("rubric", [LIKERT, PAIRWISE, FORCED, ATTRIBUTES, SEVERAL])
def test_the_line_that_is_asked_for_is_one_that_is_understood(rubric: Rubric) -> None:
    shown = verdict_text(rubric)
    filled = re.sub(r"(yes|1)(\|\w+)+", r"\1", shown).split("|")[0]
    assert verdict_in(filled, rubric.scale) is not None
    assert verdict_in(shown, rubric.scale) is None  # repeating the form is no verdict


def test_other_words_are_another_prompt() -> None:
    assert JudgePrompt(RATE, LIKERT).digest != JudgePrompt(RATE + " ", LIKERT).digest
    assert JudgePrompt(RATE, LIKERT).wants_reference
    assert not JudgePrompt("{prompt}{answer}{verdict}", LIKERT).wants_reference


def test_a_conversation_says_who_spoke() -> None:
    assert conversation([{"role": "user", "content": "Hi"}]) == "Hi"
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert conversation(turns) == "System: Be kind.\n\nUser: Hi"
