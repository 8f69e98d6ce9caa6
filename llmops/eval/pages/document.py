"""The page around its sections: one file that asks nothing of any network and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from llmops.eval.pages.markup import Markup, joined, tag


def document(title: str, *sections: Markup, data: Markup) -> str:
    """A whole page.

    The policy names the stylesheet and the script by their sha256; the data block is no script and is not run.
    """
    style, script = (_own(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = joined(
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )
    body = joined(
        tag("a", "Skip to the items", href="#items", class_="skip"),
        tag("main", *sections),
        data,
        Markup(f"<script>{script}</script>"),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


def framed(page: str, *, title: str) -> str:
    """The page within another, which it can neither restyle nor reach."""
    return tag("iframe", srcdoc=page, title=title, sandbox="allow-scripts", width="100%", height=720)


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


def _own(name: str) -> str:
    return files("llmops.eval.pages").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
