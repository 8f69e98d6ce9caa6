"""What models and people wrote, as HTML that can do nothing: Markdown, code, tables and formulas, or plain text.

Raw HTML in a text stays text. Nothing is ever fetched and nothing leads anywhere: an image becomes its description and
address, a link its words and address. Signs that turn the reading direction or cannot be seen are written out.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llmops.feedback.mathematics import formulas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST = 100_000
"""Characters that are rendered; a longer text is shown as it was written."""
_MOST_BRACKETS = 10_000
"""`[` in a text that is rendered: each may begin a link, and all of them are tried against the rest of the text."""
_MOST_LINES = 15_000
"""Lines of a text that is rendered."""
_LONGEST_CODE = 20_000
"""Characters of a code block that are coloured."""
_DEEPEST = 40
"""Quotes and lists within each other."""

_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
"""Directional marks, embeddings, overrides and isolates; signs without width; tags. Not the joiners, which Persian
and emoji are written with."""
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BLOCKS = frozenset(["paragraph_open", "heading_open", "list_item_open", "td_open", "th_open", "blockquote_open"])


def raw(text: str) -> Markup:
    """The text as it was written; each sign that cannot be seen is one element, so that positions can be counted."""
    shown = html.escape(_UNSHOWABLE.sub("\ufffd", text))
    # A parser would turn a carriage return into a line feed.
    return Markup(_written_out(shown.replace("\r", "&#13;")))


@lru_cache(maxsize=512)
def rendered(text: str) -> Markup:
    """The text as its Markdown means it; as `raw`, within a block, where it is too long to be rendered."""
    if len(text) > LONGEST or text.count("[") > _MOST_BRACKETS or text.count("\n") > _MOST_LINES:
        return Markup(
            '<p class="note">Shown as it was written, for its length.</p><div class="plain" dir="auto">{}</div>'
        ).format(raw(text))
    made = _markdown().render(_UNSHOWABLE.sub("\ufffd", text), {})
    return Markup(_written_out(made))


def _written_out(markup: str) -> str:
    # No attribute of ours holds a sign of the author's, so this meets text alone.
    return _UNSEEN.sub(lambda sign: f'<span class="unseen" dir="ltr">U+{ord(sign[0]):04X}</span>', markup)


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    md = MarkdownIt("commonmark", {"html": False, "linkify": False, "typographer": False, "maxNesting": _DEEPEST})
    md.enable(["table", "strikethrough"])
    # All addresses are shown and none is followed, so none need be refused.
    md.validateLink = lambda url: True  # type: ignore[method-assign]
    formulas(md)
    md.core.ruler.push("directions", _directions)
    for name, rule in (
        ("link_open", _link_open),
        ("link_close", _link_close),
        ("image", _image),
        ("fence", _fence),
        ("code_block", _fence),
        ("table_open", _table_open),
        ("table_close", _table_close),
    ):
        md.add_render_rule(name, rule)
    return md


def _directions(state: Any) -> None:
    """Each block finds its own direction; headings stand below the page's own."""
    for token in state.tokens:
        if token.type in _BLOCKS:
            token.attrSet("dir", "auto")
            token.attrs.pop("style", None)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"


def _address(token: Token, of: str) -> str:
    title = f' "{token.attrs["title"]}"' if token.attrs.get("title") else ""
    return html.escape(f"{token.attrs.get(of, '')}{title}")


def _link_open(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: Any) -> str:
    return '<span class="link">'


def _link_close(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: Any) -> str:
    opened = next(place for place in range(index, -1, -1) if tokens[place].type == "link_open")
    if tokens[opened].markup == "autolink":
        return "</span>"
    return f'</span> <span class="address" dir="ltr">({_address(tokens[opened], "href")})</span>'


def _image(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: Any) -> str:
    said, address = html.escape(tokens[index].content), _address(tokens[index], "src")
    return f'<span class="image">Image: {said} <span class="address" dir="ltr">({address})</span></span>'


def _fence(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: Any) -> str:
    language = (tokens[index].info or "").split(maxsplit=1)[:1]
    code = _coloured(tokens[index].content, language[0] if language else "")
    return f'<pre class="code" dir="ltr" tabindex="0" role="group" aria-label="Code"><code>{code}</code></pre>\n'


def _coloured(code: str, language: str) -> str:
    if not language or len(code) > _LONGEST_CODE or len(language) > 40:
        return html.escape(code)
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return html.escape(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="t-"))


def _table_open(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: Any) -> str:
    return '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>\n'


def _table_close(_: Any, tokens: Sequence[Token], index: int, __: Any, ___: Any) -> str:
    return "</table></div>\n"
