"""The number an answer ends in: after its mark (`#### 18`, `\\boxed{18}`, `A: 18`, `answer is 18`), or its last."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-−+]?)\s?[$€£]?\s?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:\s?/\s?(?P<below>\d+))?"
)
_MARK = re.compile(r"####|\\boxed\{|(?:^|\n)\s*A:|answer is:?", re.IGNORECASE)


def final_number(text: str) -> Fraction | None:
    """The number that `text` gives as its result, exactly; None where it holds none.

    After the last mark the first number counts, so that what a model adds behind its result does no harm; without a
    mark the last number does. Commas between thousands, a currency sign before and a unit behind are passed over;
    `1/2` is a half. A mark that no number follows is as good as none.
    """
    marks = list(_MARK.finditer(text))
    if marks and (found := _NUMBER.search(text, marks[-1].end())):
        return _value(found)
    every = list(_NUMBER.finditer(text))
    return _value(every[-1]) if every else None


def _value(found: re.Match[str]) -> Fraction:
    value = Fraction(found["digits"].replace(",", ""))
    if found["below"] and int(found["below"]):
        value /= int(found["below"])
    return -value if found["sign"] in ("-", "−") else value
