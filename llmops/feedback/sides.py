"""Which answer stood where: verdicts from a rater's order to the order answers are stored in, and back; and masks.

`shown` is the places of the responses in the order a rater saw them: `(1, 0)` showed the second one first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

MASK = "▒▒▒"


def by_place(verdict: Mapping[str, Any], shown: Sequence[int]) -> dict[str, Any]:
    """A verdict as its rater gave it, with answers named by their places: `step` 3 is then for place 0."""
    return _moved(verdict, list(shown))


def as_shown(verdict: Mapping[str, Any], shown: Sequence[int]) -> dict[str, Any]:
    """A verdict over places, with answers named as a rater saw them; undoes `by_place`."""
    back = [0] * len(shown)
    for position, place in enumerate(shown):
        back[place] = position
    return _moved(verdict, back)


def _moved(verdict: Mapping[str, Any], to: list[int]) -> dict[str, Any]:
    """The verdict where answer i has become answer `to[i]`."""
    moved = dict(verdict)
    if verdict["kind"] == "pairwise" and verdict["step"] is not None and to == [1, 0]:
        moved["step"] = -verdict["step"]
    elif verdict["kind"] == "rating":
        moved["scores"] = [score for _, score in sorted(zip(to, verdict["scores"], strict=True), key=lambda at: at[0])]
    elif verdict["kind"] == "ranking":
        moved["groups"] = [sorted(to[one] for one in group) for group in verdict["groups"]]
        moved["invalid"] = sorted(to[one] for one in verdict.get("invalid", ()))
    return moved


def agrees(expected: Mapping[str, Any], said: Mapping[str, Any]) -> bool | None:
    """Whether a verdict is the expected one, both over places; None where nobody can say.

    Of a pair, the side counts and not how strongly it was said; of a correction, whether one was thought necessary.
    """
    if expected.get("kind") != said.get("kind"):
        return None
    match expected["kind"]:
        case "pairwise":
            return _side(expected) == _side(said)
        case "rating":
            return len(expected["scores"]) == len(said["scores"]) and expected["scores"] == said["scores"]
        case "ranking":
            return _order(expected) == _order(said)
        case "thumbs":
            return bool(expected["up"] == said["up"])
        case "correction":
            return (expected["text"] is None) == (said["text"] is None)
    return None


def _side(verdict: Mapping[str, Any]) -> int | None:
    step = verdict["step"]
    return None if step is None else (step > 0) - (step < 0)


def _order(verdict: Mapping[str, Any]) -> tuple[list[list[int]], list[int]]:
    return [sorted(group) for group in verdict["groups"]], sorted(verdict.get("invalid", ()))


def masked(text: str, patterns: Sequence[str]) -> str:
    """The text as raters see it. All masks are of one length, or they would say what they hide."""
    for pattern in patterns:
        text = _compiled(pattern).sub(MASK, text)
    return text


@lru_cache(maxsize=500)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def masked_message(message: Mapping[str, Any], patterns: Sequence[str]) -> Mapping[str, Any]:
    """A turn of the conversation as raters see it, whether its content is a text or a list of parts."""
    content = message.get("content")
    if not patterns or not content:
        return message
    if isinstance(content, str):
        return {**message, "content": masked(content, patterns)}
    parts = [
        {**part, "text": masked(part["text"], patterns)}
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else part
        for part in content
    ]
    return {**message, "content": parts}
