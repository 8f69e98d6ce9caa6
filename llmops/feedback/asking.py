"""What a rater is asked about one task, as questions with options: what the templates lay out and the keys choose."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.feedback.tasks import Task
from llmops.rubric import Attributes, Likert, Pairwise

_PLAIN_STEPS = (
    "A much better",
    "A better",
    "A slightly better",
    "Alike",
    "B slightly better",
    "B better",
    "B much better",
)
_DIGITS = "1234567890"


@dataclass(frozen=True, slots=True)
class Option:
    """One answer to a question; `key` is the digit that chooses it, empty where digits have run out."""

    value: str
    label: str
    key: str


@dataclass(frozen=True, slots=True)
class Question:
    """`position` is the response it is asked of, None where it is asked of all."""

    name: str
    legend: str
    options: tuple[Option, ...]
    position: int | None = None


_YES_NO = (Option("yes", "Yes", "1"), Option("no", "No", "2"))


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str


def letter(position: int) -> str:
    """How a response is called: A, B, … in the order this rater sees them."""
    return "ABCDEFGHI"[position]


def questions(task: Task) -> tuple[Question, ...]:
    """What is chosen from options; a ranking and a correction are given otherwise, and ask none."""
    if task.kind == "pairwise":
        return (_pairwise(task),)
    if task.kind == "thumbs":
        return (Question("thumb", task.rubric.question, (Option("up", "Good", "1"), Option("down", "Bad", "2"))),)
    if task.kind == "rating":
        return tuple(_of_each(task))
    return ()


def _pairwise(task: Task) -> Question:
    scale = task.rubric.scale
    default = Pairwise(kind="pairwise")
    known = scale if isinstance(scale, Pairwise) else default
    labels = _PLAIN_STEPS if known.labels == default.labels else known.labels
    steps = [
        Option(str(step), label, str(4 - step))
        for step, label in zip((3, 2, 1, 0, -1, -2, -3), labels, strict=True)
        if step in known.steps
    ]
    return Question("verdict", task.rubric.question, (*steps, Option("both_bad", "Both bad", "0")))


def _of_each(task: Task) -> Iterator[Question]:
    scale = task.rubric.scale
    for position in range(len(task.responses)):
        name = f"Response {letter(position)}"
        if isinstance(scale, Likert):
            yield Question(f"score-{position}", name, _numbered(scale.labels), position)
        elif isinstance(scale, Attributes):
            for key, attribute in scale.attributes.items():
                options = _YES_NO if scale.labels is None else _numbered(scale.labels)
                yield Question(f"score-{position}-{key}", f"{name}: {attribute.question}", options, position)
        else:
            raise ValueError(f"the rubric {task.rubric.name} compares two answers; it cannot rate one by itself")


def _numbered(labels: Sequence[str]) -> tuple[Option, ...]:
    return tuple(
        Option(str(place), label, _DIGITS[place - 1] if place <= len(_DIGITS) else "")
        for place, label in enumerate(labels, 1)
    )


def turns(prompt: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """The conversation as text; what is no text (images, calls of tools) is named and shown as JSON."""
    return tuple(Turn(str(one.get("role", "")), _said(one)) for one in prompt)


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    found = [_part(part) for part in parts if part is not None]
    if calls := message.get("tool_calls"):
        found.append(_as_json(calls))
    return "\n\n".join(found)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return part["text"]
    return _as_json(part)


def _as_json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"


def in_words(task: Task, verdict: Mapping[str, Any]) -> str:
    """A verdict as the page calls it, for the right answer to a practice task."""
    kind = verdict.get("kind")
    asked = questions(task)
    if kind == "pairwise":
        value = "both_bad" if verdict.get("both_bad") else str(verdict["step"])
        return _label(asked[0], value)
    if kind == "thumbs":
        return _label(asked[0], "up" if verdict["up"] else "down")
    if kind == "rating":
        return "; ".join(_scored(asked, position, score) for position, score in enumerate(verdict["scores"]))
    if kind == "ranking":
        order = " > ".join(" = ".join(letter(position) for position in group) for group in verdict["groups"])
        invalid = ", ".join(letter(position) for position in verdict.get("invalid", ()))
        return order + (f"; not usable: {invalid}" if invalid else "")
    return "Right as it is" if verdict.get("text") is None else str(verdict["text"])


def _scored(asked: Sequence[Question], position: int, score: Any) -> str:
    named = score if isinstance(score, dict) else {"": score}
    found = []
    for key, value in named.items():
        name = f"score-{position}-{key}" if key else f"score-{position}"
        question = next(one for one in asked if one.name == name)
        found.append(f"{question.legend}: {_label(question, str(value))}")
    return "; ".join(found)


def _label(question: Question, value: str) -> str:
    return next((option.label for option in question.options if option.value == value), value)
