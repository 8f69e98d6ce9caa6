"""Where the sentences of a text end, by rule: no model, nothing to download."""

from __future__ import annotations

import re

_END = re.compile(
    r"""
    (?P<mark>[.!?…]+)["'”’»)\]]*        # the marks, and what closes behind them
    (?:\s+(?=["'“‘«(\[]*[^\W_a-z])      # white space, then no lower-case letter (of a–z) starts the next
    |\s*\Z)
    |(?P<wide>[。！？]+)["”’»）」』]*\s*  # Chinese and Japanese marks need no space
    """,
    re.VERBOSE,
)
_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*\Z")
_ABBREVIATED = (
    "mr mrs ms dr prof sr jr st vs etc e.g i.e cf al no vol fig eq sec ch pp p inc ltd co corp gen col sgt capt lt rev "
    "hon gov sen rep jan feb mar apr jun jul aug sep sept oct nov dec approx dept est"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())


def sentences(text: str) -> list[str]:
    """The sentences of `text` in order, without white space around them; none is empty.

    A line's end ends a sentence. So do `.`, `!`, `?` and `…` (with closing quotes and brackets) before white space
    and anything but a lower-case letter; but not a single full stop after a common English abbreviation (`Dr.`,
    `e.g.`) or after initials (`J.`, `U.S.`).
    """
    return [found for line in text.splitlines() for found in _of_line(line)]


def _of_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        if end.group().strip() == "." and end.end() < len(line) and _is_short(line[start : end.start()]):
            continue
        found.append(line[start : end.end()].strip())
        start = end.end()
    return [one for one in (*found, line[start:].strip()) if one]


def _is_short(before: str) -> bool:
    """The text ends in an abbreviation or in initials, so that a full stop behind it ends no sentence."""
    found = _LAST_WORD.search(before)
    if not found:
        return False
    word = found.group()
    initials = all(len(part) == 1 and part.isupper() for part in word.split("."))
    return initials or word.lower() in _ABBREVIATIONS
