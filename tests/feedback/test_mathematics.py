"""Formulas become MathML of known elements and attributes, or stay as they were written."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.mathematics import DEEPEST, LONGEST, MOST, drawn
from llmops.feedback.rendering import rendered


def parsed(shown: str) -> ElementTree.Element:
    return ElementTree.fromstring(shown)


@pytest.mark.parametrize("text", ["$x^2$", r"\(x^2\)"])
def test_formulas_within_a_line(text: str) -> None:
    assert 'display="inline"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>' in rendered(f"so {text} is")


@pytest.mark.parametrize("text", ["$$x^2$$", r"\[x^2\]", "$$\nx^2\n$$", "\\[\nx^2\n\\]", "- $$x^2$$", "> \\[ x^2 \\]"])
def test_formulas_of_their_own(text: str) -> None:
    assert 'display="block"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>' in rendered(text)


@pytest.mark.parametrize("text", ["it costs $5 or $10", r"\$x\$", "`$x$`", "a $ b $ c", r"\( never closed", r"\\(x\\)"])
def test_prices_code_and_lone_signs_are_no_formulas(text: str) -> None:
    assert "<math" not in rendered(text)


def test_names_of_functions_and_arrows_stand_apart_as_tex_has_them() -> None:
    thin = '<mspace width="0.167em"></mspace>'
    for formula, said in {
        r"2\ln 2": f"<mn>2</mn>{thin}<mi>ln</mi>{thin}<mn>2</mn>",
        r"\log_2 n": f"<msub><mi>log</mi><mn>2</mn></msub>{thin}<mi>n</mi>",
        r"1+\sin(x)": '<mo>+</mo><mi>sin</mi><mo stretchy="false">(</mo>',
        r"\ln^2": "<msup><mi>ln</mi><mn>2</mn></msup></mrow>",
        r"\frac{\ln}{2}": "<mfrac><mrow><mi>ln</mi></mrow><mrow><mn>2</mn></mrow></mfrac>",
        r"a \iff b": "<mi>a</mi><mo>⟺</mo><mi>b</mi>",
    }.items():
        assert said in drawn(formula, block=False), formula


def test_what_latex_asks_for_beyond_mathematics_is_left_out() -> None:
    for formula in (
        r"\href{javascript:alert(1)}{x}", r"\class{a}{x}", r"\style{color:red}{x}", r"\cssId{a}{x}",
        r"\color{red;b:url(x)}x", r"\text{<script>}",
    ):  # fmt: skip
        for element in parsed(drawn(formula, block=False)).iter():
            assert not {"href", "class", "style", "id"} & set(element.attrib) or element.tag in ("span", "code")
            assert element.tag != "script"
    assert 'mathcolor="red"' in drawn(r"\color{red}x", block=False)


def test_a_formula_that_cannot_be_read_is_shown_as_it_was_written() -> None:
    for formula in (r"\frac", "^^", "{" * (DEEPEST + 1) + "}" * (DEEPEST + 1), "x" * (LONGEST + 1)):
        shown = parsed(drawn(formula, block=True))
        assert (shown.tag, shown.text) == ("code", formula)


def test_only_so_many_formulas_are_drawn() -> None:
    assert rendered("$x$ " * (MOST + 50)).count("<math") == MOST


@given(st.text(alphabet=st.sampled_from(list("\\{}^_&abfrct<>\"' 1+=$")), max_size=60))
def test_every_text_gives_well_formed_markup(formula: str) -> None:
    parsed(drawn(formula, block=False))
