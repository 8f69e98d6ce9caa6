"""HTML made of escaped text, whatever a model wrote, and the page around it, which asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_UNSHOWABLE = re.compile("[\x00\ud800-\udfff]")


class Markup(str):
    """Text that is markup already; everything else that `tag` is given is escaped."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """`text` as it is to be seen; NUL and halves of surrogate pairs, which no file can hold, become U+FFFD."""
    if isinstance(text, Markup):
        return text
    shown = html.escape(_UNSHOWABLE.sub("\ufffd", str(text)))
    # A parser would turn a carriage return into a line feed.
    return Markup(shown.replace("\r", "&#13;"))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` and `for_` stand for the words Python keeps, `data_x` for `data-x`; None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    return Markup("".join(map(escaped, children)))


def page(
    title: str, *body: object, style: str, script: str = "", colours: str = "light dark", drawn: bool = False
) -> str:
    """A whole page, which runs no script but `script` and has no stylesheet but `style`: its policy names their sha256.

    Args:
        colours: the schemes that `style` is made for.
        drawn: pictures of a library are inside, whose parts carry styles of their own; any style is allowed then.
    """
    policy = {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'" if drawn else f"'{_hash(style)}'",
        **({"script-src": f"'{_hash(script)}'"} if script else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    head = joined(
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(map(" ".join, policy.items()))}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta name="color-scheme" content="{colours}">'),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )
    end = Markup(f"<script>{script}</script>") if script else ""
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{joined(*body, end)}</body></html>\n'


_NUMBER = re.compile(r"[-+−<]?[\d∞].*")
"""Also an interval, and counts with strokes between them."""


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> Markup:
    """A table whose first column names its rows; columns of numbers stand to the right."""
    kinds = [
        "number" if place and all(_NUMBER.fullmatch(row[place]) or not row[place] for row in rows) else None
        for place in range(len(headings))
    ]
    head = [tag("th", one, scope="col", class_=kind) for one, kind in zip(headings, kinds, strict=True)]
    body = [
        tag(
            "tr",
            tag("th", one[0], scope="row"),
            *(tag("td", cell, class_=kind) for cell, kind in zip(one[1:], kinds[1:], strict=True)),
        )
        for one in rows
    ]
    shown = tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body))
    return tag("div", shown, class_="scroll", tabindex=0, role="group", aria_label=caption)


def facts(pairs: Mapping[str, Any]) -> Markup:
    """Names with their values; what is no text stands as JSON."""
    found = [
        tag(
            "div",
            tag("dt", name),
            tag("dd", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
        )
        for name, value in pairs.items()
    ]
    return tag("dl", *found)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
