"""The words in which two answers differ, as HTML for each of them."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache

from markupsafe import Markup

from llmops.feedback.rendering import raw

MOST_WORDS = 2_500
"""Words of an answer that are compared one by one; longer ones are first compared line by line."""
_WORD = re.compile(r"\w+|\s+|[^\w\s]", re.UNICODE)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_Piece = tuple[bool, str]


@lru_cache(maxsize=256)
def difference(first: str, second: str) -> tuple[Markup, Markup]:
    """Both texts, with what only the first has in `<del>` and what only the second has in `<ins>`."""
    ours, theirs = _compared(first, second)
    return _marked(ours, "del"), _marked(theirs, "ins")


def _compared(first: str, second: str) -> tuple[list[_Piece], list[_Piece]]:
    one, two = _WORD.findall(first), _WORD.findall(second)
    if max(len(one), len(two)) <= MOST_WORDS:
        return _runs(one, two)
    ours: list[_Piece] = []
    theirs: list[_Piece] = []
    for same, left, right in _opcodes(_LINE.findall(first), _LINE.findall(second)):
        before, after = "".join(left), "".join(right)
        if not same and left and right and max(len(before), len(after)) <= MOST_WORDS:
            changed = _runs(_WORD.findall(before), _WORD.findall(after))
            ours += changed[0]
            theirs += changed[1]
        else:
            ours.append((same, before))
            theirs.append((same, after))
    return ours, theirs


def _runs(one: list[str], two: list[str]) -> tuple[list[_Piece], list[_Piece]]:
    found = [(same, "".join(left), "".join(right)) for same, left, right in _opcodes(one, two)]
    return [(same, left) for same, left, _ in found], [(same, right) for same, _, right in found]


def _opcodes(one: list[str], two: list[str]) -> list[tuple[bool, list[str], list[str]]]:
    matcher = SequenceMatcher(None, one, two)
    return [
        (kind == "equal", one[start:end], two[begin:stop]) for kind, start, end, begin, stop in matcher.get_opcodes()
    ]


def _marked(pieces: list[_Piece], name: str) -> Markup:
    return Markup("").join(
        raw(text) if same else Markup(f"<{name}>{{}}</{name}>").format(raw(text)) for same, text in pieces if text
    )
