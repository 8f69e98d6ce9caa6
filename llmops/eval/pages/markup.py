"""HTML made of escaped text: whatever a model wrote can only ever become text."""

from __future__ import annotations

import html
import re

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
