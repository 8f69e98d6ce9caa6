"""A judge's verdict out of its reply, read strictly: what is not clearly a verdict is none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.rubric import Attributes, Likert, Pairwise

Judgement = str | int | Mapping[str, str | int]
"""A choice (A, B, TIE), a step, or by attribute yes and no or a step."""

_LINE = re.compile(r"VERDICT:\s*(\S.*)")
_FENCE = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)


def verdict_in(reply: str, scale: Pairwise | Likert | Attributes) -> Judgement | None:
    """The verdict that a reply gives; None where it gives none, or one that is not on the scale.

    Read is the last line, `VERDICT: …`, or a reply that is one JSON object with `verdict` (in a code fence or not).
    Nothing is searched for in the text before: a judge that quotes a verdict has not given one.
    """
    text = reply.strip()
    last = text.rsplit("\n", 1)[-1].strip()
    if line := _LINE.fullmatch(last):
        return _on_scale(_plain(line[1].strip()), scale)
    fenced = _FENCE.fullmatch(text)
    given = _json(fenced[1] if fenced else text)
    return _on_scale(given["verdict"], scale) if isinstance(given, dict) and "verdict" in given else None


def _on_scale(given: Any, scale: Pairwise | Likert | Attributes) -> Judgement | None:
    match scale:
        case Pairwise():
            return given if isinstance(given, str) and given in scale.choices else None
        case Likert():
            return given if _is_one_of(given, scale.steps) else None
        case Attributes():
            complete = isinstance(given, dict) and set(given) == set(scale.attributes)
            return given if complete and all(_is_one_of(one, scale.answers) for one in given.values()) else None


def _is_one_of(given: Any, answers: Sequence[str | int]) -> bool:
    """True is no 1 here."""
    return not isinstance(given, bool) and given in answers


def _plain(text: str) -> Any:
    """What stands behind `VERDICT:`: a whole number, an object, or a word."""
    if re.fullmatch(r"[0-9]{1,3}", text):
        return int(text)
    return _json(text) if text.startswith("{") else text


def _json(text: str) -> Any:
    """The JSON in a text; a key that is written twice makes it none."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is written twice")
    return dict(pairs)
