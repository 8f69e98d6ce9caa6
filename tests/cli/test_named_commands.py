"""Commands that messages, pages and files tell people to run exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import typer

from llmops.cli.main import app

REPOSITORY = Path(__file__).parents[2]
PLACES = ("llmops", "recipes", "configs", "eval", "feedback")
_NAMED = re.compile(r"(?:`|next: |#\s+)llmops((?: [a-z][a-z-]+)+)")


def named() -> dict[str, str]:
    """The words after `llmops`, and a file that has them."""
    found = {}
    for folder in PLACES:
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix in (".py", ".html", ".js", ".yaml", ".md"):
                for words in _NAMED.findall(file.read_text(encoding="utf-8")):
                    found[words.strip()] = str(file.relative_to(REPOSITORY))
    return found


@cache
def whole() -> Any:
    """All commands; to make them takes a while."""
    return typer.main.get_command(app)


def unknown(words: str) -> str | None:
    """The word at which no command has that name; None where there is one. What follows a command is its argument."""
    command = whole()
    for word in words.split():
        inner = getattr(command, "commands", None)
        if not inner:
            return None
        if word not in inner:
            hidden = any(one.hidden for one in inner.values())  # `llmops serve GATEWAY`: the group takes an argument
            return None if hidden else word
        command = inner[word]
    return None


def test_every_command_that_is_named_is_there() -> None:
    everything = named()
    assert len(everything) > 30
    wrong = {words: place for words, place in everything.items() if unknown(words) is not None}
    assert wrong == {}


def test_that_test_would_see_it() -> None:
    assert unknown("feedback raters") == "raters"
    assert unknown("feedback report") is None
