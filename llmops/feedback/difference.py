"""The words in which two answers differ, as HTML for each of them."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache

from markupsafe import Markup

from llmops.feedback.rendering import raw

MOST_WORDS = 2_500
"""Words of an answer that are compared one by one; longer ones are first compared line by line."""
_MOST_PAIRS = 150_000
"""Pairs of equal words, one of each text, up to which frequent words count too; beyond it they only join others."""
_WORD = re.compile(r"(\w+|[^\w\s])(\s*)")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_Pieces = list[tuple[bool, str]]
"""Stretches of a text, and whether the other text has them too."""


@lru_cache(maxsize=256)
def difference(first: str, second: str) -> tuple[Markup, Markup]:
    """Both texts, with what only the first has in `<del>` and what only the second has in `<ins>`.

    Words are compared, not the space between them.
    """
    ours, theirs = _by_lines(first, second) if _long(first) or _long(second) else _by_words(first, second)
    return _marked(ours, "del"), _marked(theirs, "ins")


def _long(text: str) -> bool:
    return len(_WORD.findall(text)) > MOST_WORDS


def _by_lines(first: str, second: str) -> tuple[_Pieces, _Pieces]:
    ours: _Pieces = []
    theirs: _Pieces = []
    for same, left, right in _opcodes(_LINE.findall(first), _LINE.findall(second)):
        before, after = "".join(left), "".join(right)
        if not same and before and after and not _long(before) and not _long(after):
            changed = _by_words(before, after)
            ours += changed[0]
            theirs += changed[1]
        else:
            ours.append((same, before))
            theirs.append((same, after))
    return ours, theirs


def _by_words(first: str, second: str) -> tuple[_Pieces, _Pieces]:
    one, two = _WORD.findall(first), _WORD.findall(second)
    ours: _Pieces = [(True, first[: len(first) - len(first.lstrip())])]
    theirs: _Pieces = [(True, second[: len(second) - len(second.lstrip())])]
    place, other = 0, 0
    for same, left, right in _opcodes([word for word, _ in one], [word for word, _ in two]):
        ours += _stretch(same, one[place : place + len(left)])
        theirs += _stretch(same, two[other : other + len(right)])
        place, other = place + len(left), other + len(right)
    return ours, theirs


def _stretch(same: bool, words: list[tuple[str, str]]) -> _Pieces:
    """The words with the space between them; the space after the last is nobody's."""
    if not words:
        return []
    text = "".join(word + space for word, space in words)
    after = len(words[-1][1])
    return [(same, text[: len(text) - after]), (True, text[len(text) - after :])]


def _opcodes(one: list[str], two: list[str]) -> list[tuple[bool, list[str], list[str]]]:
    counts = Counter(two)
    pairs = sum(counts[word] for word in one)
    matcher = SequenceMatcher(None, one, two, autojunk=pairs > _MOST_PAIRS)
    return [
        (kind == "equal", one[start:end], two[begin:stop]) for kind, start, end, begin, stop in matcher.get_opcodes()
    ]


def _marked(pieces: _Pieces, name: str) -> Markup:
    shown = ((same, raw(text)) for same, text in pieces if text)
    return Markup("".join(text if same else f"<{name}>{text}</{name}>" for same, text in shown))
