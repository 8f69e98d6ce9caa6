"""The page around the sections of a report: it runs no script but its own."""

from __future__ import annotations

from importlib.resources import files

from llmops.markup import Markup, page, tag


def document(title: str, *sections: Markup, data: Markup) -> str:
    """A whole page; the data block is no script and is not run."""
    return page(
        title,
        tag("a", "Skip to the items", href="#items", class_="skip"),
        tag("main", *sections),
        data,
        style=_own("page.css"),
        script=_own("page.js"),
    )


def framed(page: str, *, title: str) -> str:
    """The page within another, which it can neither restyle nor reach."""
    return tag("iframe", srcdoc=page, title=title, sandbox="allow-scripts", width="100%", height=720)


def _own(name: str) -> str:
    return files("llmops.eval.pages").joinpath(name).read_text(encoding="utf-8")
