r"""Formulas in answers: found in Markdown as $…$, $$…$$, \(…\) and \[…\], and drawn as MathML by the browser itself.

What latex2mathml makes of a formula is rebuilt from a list of known elements and attributes, since it passes on what
LaTeX asks for (\href, \class, \style). A formula that it cannot read is shown as it was written.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline

LONGEST = 2_000
"""Characters of one formula that is drawn."""
DEEPEST = 40
"""Braces and environments within each other in one formula that is drawn."""
MOST = 300
"""Formulas of one text that are drawn; the others are shown as they were written."""

_ELEMENTS = re.compile(
    "math|m(row|i|n|o|s|text|space|frac|sqrt|root|sub|sup|subsup|under|over|underover|multiscripts|prescripts|table|tr|"
    "td|style|padded|phantom|enclose|error)|none"
)
_WORDS = re.compile(r"[a-z-]{1,30}( [a-z-]{1,30}){0,8}")
_LENGTHS = re.compile(r"[+-]?[0-9]*\.?[0-9]+(em|ex|pt|px|mu|%)?( [0-9]*\.?[0-9]+(em|ex|pt|px|%)?){0,8}|[a-z]{1,20}")
_COLOUR = re.compile(r"#[0-9A-Fa-f]{3,8}|[A-Za-z]{1,30}")
_ATTRIBUTES = (
    (
        re.compile(
            "display|displaystyle|mathvariant|form|fence|separator|stretchy|symmetric|accent|accentunder|largeop|"
            "movablelimits|columnalign|rowalign|columnlines|rowlines|linebreak|notation|frame|bevelled"
        ),
        _WORDS,
    ),
    (
        re.compile(
            "width|height|depth|[lr]space|voffset|minsize|maxsize|linethickness|scriptlevel|mathsize|columnspacing|"
            "rowspacing"
        ),
        _LENGTHS,
    ),
    (re.compile("mathcolor|mathbackground"), _COLOUR),
)
_FUNCTION = re.compile("[A-Za-z]{2,}")
_ARROW = re.compile("[\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f]")
_ROWS = frozenset(("math", "mrow", "mstyle", "mtd", "mpadded", "mphantom"))
"""Elements whose children stand beside each other; of others each child has its place."""
_SPACED = frozenset(("mo", "mspace"))
"""Elements that bring their own space."""
_THIN = '<mspace width="0.167em"></mspace>'
_DEEPER = re.compile(r"\{|\\begin\b|\\left\b")
_BACK = re.compile(r"\}|\\end\b|\\right\b")


def drawn(formula: str, *, block: bool) -> str:
    """The formula as HTML; as text, where it is too long, too deep, or no LaTeX that is known."""
    known = _mathml(formula, block=block)
    kind = "block" if block else "inline"
    if known is None:
        return f'<code class="formula {kind}" dir="ltr">{html.escape(formula)}</code>'
    # Scrolls where it is wider than its column, so it must be reachable by keyboard.
    focus = ' tabindex="0" role="group" aria-label="Formula"' if block else ""
    return f'<span class="formula {kind}" dir="ltr"{focus}>{known}</span>'


def _mathml(formula: str, *, block: bool) -> str | None:
    if len(formula) > LONGEST or not formula.strip() or _depth(formula) > DEEPEST:
        return None
    from latex2mathml.converter import convert_to_element

    try:
        return _rebuilt(convert_to_element(formula, display="block" if block else "inline"))
    except Exception:  # It raises whatever its parser stumbles over; none of it is ours to tell a rater.
        return None


def _depth(formula: str) -> int:
    # Escaped braces count too: an estimate from above is all that a guard needs.
    now = deepest = 0
    for sign in re.finditer(f"({_DEEPER.pattern})|({_BACK.pattern})", formula):
        now = now + 1 if sign[1] else max(now - 1, 0)
        deepest = max(deepest, now)
    return deepest


def _rebuilt(element: Element) -> str | None:
    """The element with its children, or None where it or one of them is not known. Unknown attributes are left out."""
    if not _ELEMENTS.fullmatch(element.tag):
        return None
    kept = "".join(
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if any(names.fullmatch(name) and values.fullmatch(value) for names, values in _ATTRIBUTES)
    )
    text = html.unescape(element.text or "")
    # As names arrows would stand without space; as operators they get what they are due.
    tag = "mo" if element.tag == "mi" and _ARROW.fullmatch(text) else element.tag
    parts = [html.escape(text)]
    before: Element | None = None
    for child in element:
        inner = _rebuilt(child)
        if inner is None:
            return None
        if before is not None and tag in _ROWS and _apart(before, child):
            parts.append(_THIN)
        parts += [inner, html.escape(html.unescape(child.tail or ""))]
        before = child
    return f"<{tag}{kept}>{''.join(parts)}</{tag}>"


def _apart(one: Element, other: Element) -> bool:
    """Whether the thin space belongs between them that TeX puts beside a function's name: 2 ln 2, but ln(2)."""
    return (_is_function(one) and other.tag not in _SPACED) or (_is_function(other) and one.tag not in _SPACED)


def _is_function(element: Element) -> bool:
    """Whether it is a name of several letters, with or without indices."""
    while element.tag in ("msub", "msup", "msubsup") and len(element):
        element = element[0]
    return element.tag == "mi" and _FUNCTION.fullmatch(element.text or "") is not None


def formulas(md: MarkdownIt) -> None:
    r"""The plugin. Dollars as Pandoc has them: no space within, no digit after, so that $5 and $10 stay prices."""
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    md.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    # Before "escape", which would take the backslash for itself.
    md.inline.ruler.before("escape", "bracket_math", _bracketed_within)
    md.block.ruler.before("fence", "bracket_math_block", _bracketed_block, {"alt": ["paragraph", "blockquote", "list"]})
    for name, block in (
        ("math_inline", False),
        ("math_inline_double", True),
        ("math_block", True),
        ("bracket_math_block", True),
    ):
        md.add_render_rule(name, _render_rule(block=block))


def _render_rule(*, block: bool) -> Any:
    def render(_: Any, tokens: Any, index: int, __: Any, env: Any) -> str:
        env["formulas"] = env.get("formulas", 0) + 1
        formula = tokens[index].content.strip()
        if env["formulas"] > MOST:
            return f"<code>{html.escape(formula)}</code>"
        return drawn(formula, block=block)

    return render


def _bracketed_within(state: StateInline, silent: bool) -> bool:
    r"""`\(…\)` and `\[…\]` within a line."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in ("\\(", "\\["):
        return False
    closing = "\\)" if opening == "\\(" else "\\]"
    # Bounded, so that thousands of openings without an end cost no more than as many short looks.
    end = state.src.find(closing, state.pos + 2, min(state.posMax, state.pos + 2 + LONGEST))
    if end < 0:
        return False
    if not silent:
        token = state.push("math_inline" if opening == "\\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _bracketed_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    r"""`\[` at the start of a line up to `\]` at the end of one, over at most 50 lines."""
    start = state.bMarks[first] + state.tShift[first]
    if state.src[start : start + 2] != "\\[" or state.is_code_block(first):
        return False
    for line in range(first, min(last, first + 50)):
        if line > first and state.sCount[line] < state.blkIndent:
            return False
        text = state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip()
        if not text.endswith("\\]") or (line == first and len(text) < 4):
            continue
        if not silent:
            token = state.push("bracket_math_block", "math", 0)
            token.block = True
            token.content = state.getLines(first, line + 1, state.blkIndent, False).strip()[2:-2]
            token.map = [first, line + 1]
            state.line = line + 1
        return True
    return False
