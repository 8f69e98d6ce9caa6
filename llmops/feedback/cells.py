"""Cells of csv files that spreadsheets open: nothing a rater or a model wrote is taken for a formula."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_FORMULA = frozenset("=+-@\t\r\n|%＝＋－＠")
"""What begins a formula, or a command, in Excel, LibreOffice and Google Sheets; wide forms do in East Asian ones."""


def safe_cell(value: object) -> object:
    """The value for a cell: a text that would be a formula gets a `'` in front, which spreadsheets show as text.

    Numbers, also those written as texts, stay as they are; blanks and separators around a formula hide it from nobody.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    begins = value.lstrip(" \u00a0\u200b\ufeff\v\f")
    return f"'{value}" if begins[:1] in _FORMULA and begins else value
