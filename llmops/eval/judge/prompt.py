"""What a judge is asked: a template of eval/judges/*.md, filled with a rubric and the texts to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.data.templates import columns_in, fill
from llmops.errors import InputError, nearest
from llmops.files import digest_of
from llmops.rubric import Attributes, Likert, Pairwise, Rubric

_OF_RUBRIC = {"question", "instructions", "scale", "verdict"}
_RATING = {"prompt", "answer"}
_PAIRWISE = {"prompt", "first", "second"}


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A template that fits a rubric.

    Placeholders: `{question}`, `{instructions}`, `{scale}` (how to answer) and `{verdict}` (the last line that is
    expected) come from the rubric; `{prompt}` is the conversation that was answered. A rubric that rates one answer
    has `{answer}` and may have `{reference}`; one that compares has `{first}` and `{second}`.
    """

    template: str
    rubric: Rubric

    @property
    def digest(self) -> str:
        """sha256 over the template; the rubric has its own."""
        return digest_of(self.template)

    def filled(self, **texts: str) -> str:
        """The whole question to the judge; braces inside a text stay as they are."""
        rubric = self.rubric
        given = {
            "question": rubric.question,
            "instructions": rubric.instructions,
            "scale": scale_text(rubric),
            "verdict": verdict_text(rubric),
        }
        return fill(self.template, {**given, **texts})

    @property
    def wants_reference(self) -> bool:
        return "reference" in columns_in(self.template)


def load_prompt(path: Path, rubric: Rubric) -> JudgePrompt:
    """The template in a file.

    Raises:
        InputError: it cannot be read, lacks a placeholder that the rubric's scale needs, or has an unknown one.
    """
    try:
        template = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the judge's prompt {path} cannot be read: {error}", fix="give a file such as those of eval/judges/"
        ) from error
    named = set(columns_in(template))
    needed = {"verdict"} | (_PAIRWISE if isinstance(rubric.scale, Pairwise) else _RATING)
    known = needed | _OF_RUBRIC | (set() if isinstance(rubric.scale, Pairwise) else {"reference"})
    for name in sorted(named - known):
        raise InputError(
            f"the judge's prompt {path} has {{{name}}}, which nothing fills{nearest(name, known)}",
            fix=f"a rubric of kind {rubric.scale.kind} fills {_listed(known)}; a brace that is meant is written twice",
        )
    if missing := needed - named:
        raise InputError(
            f"the judge's prompt {path} lacks {_listed(missing)}, which a rubric of kind {rubric.scale.kind} needs",
            fix=f"add it, or use another rubric than {rubric.name}",
        )
    return JudgePrompt(template, rubric)


def scale_text(rubric: Rubric) -> str:
    """The choices that the judge has, in words."""
    match rubric.scale:
        case Pairwise(ties=ties):
            alike = " Say TIE where they are alike." if ties else " You must choose one of them."
            return f"Say A where answer A is better, B where answer B is.{alike}"
        case Likert(labels=labels):
            return "\n".join(f"{step}: {label}" for step, label in enumerate(labels, 1))
        case Attributes(attributes=attributes, labels=labels):
            how = " (yes or no)" if labels is None else ""
            asked = [f"{name}: {one.question}{how}" for name, one in attributes.items()]
            steps = [f"{step}: {label}" for step, label in enumerate(labels or (), 1)]
            return "\n".join([*asked, *(["Each is answered with a number:", *steps] if steps else [])])


def verdict_text(rubric: Rubric) -> str:
    """The line that must end the judge's reply."""
    match rubric.scale:
        case Pairwise(choices=choices):
            return f"VERDICT: {'|'.join(choices)}"
        case Likert(steps=steps):
            return f"VERDICT: {'|'.join(map(str, steps))}"
        case Attributes(attributes=attributes, answers=answers, labels=labels):
            either = "|".join(map(str, answers))
            choice = f'"{either}"' if labels is None else either
            inside = ", ".join(f'"{name}": {choice}' for name in attributes)
            return f"VERDICT: {{{inside}}}"


def conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """What was asked, as the judge reads it: one user turn as it stands, several turns with who spoke."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{str(turn['role']).capitalize()}: {turn['content']}" for turn in messages)


def _listed(names: set[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))
