"""The rating pages as HTML: templates of `ui/`, every value escaped, no script or style within a page."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llmops.feedback import asking
from llmops.feedback.difference import difference
from llmops.feedback.rendering import raw, rendered
from llmops.feedback.static import imported, static_path
from llmops.feedback.tasks import NoTask, Progress, Task
from llmops.rubric import Rubric

if TYPE_CHECKING:
    from jinja2 import Environment

_SKIPS = ("I cannot judge this", "I do not read this language", "The text is broken or incomplete")
_FLAGS = ("Personal data", "Harmful or illegal", "A secret, such as a password", "It names the model that wrote it")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for a page.

    Attributes:
        id: what the desk knows the rater by.
        name: shown to themselves.
        csrf: what their page has to send with every change.
    """

    id: str
    name: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Offered:
    """A campaign on a rater's start page; `owned` where they see its numbers too."""

    name: str
    kind: str
    question: str
    progress: Progress
    owned: bool = False


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, for pages of other parts of the service too; they extend `layout.html`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("llmops.feedback", "ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,  # to look whether a file has changed, at every use, costs more than the use
    )
    made.filters.update(rendered=rendered, raw=raw, letter=asking.letter)
    made.globals.update(static=static_path, imported=imported)
    return made


def start_page(visitor: Visitor, offered: Sequence[Offered], *, login: str) -> str:
    return _page("start.html", visitor, login, offered=offered)


def rate_page(visitor: Visitor, campaign: str, held: Task | NoTask, progress: Progress, *, login: str) -> str:
    """A campaign's page with the rater's task, or why there is none, in it."""
    place = task_html(held) if isinstance(held, Task) else waiting_html(held, campaign)
    return _page(
        "rate.html", visitor, login, campaign=campaign, place=place, progress=progress, skips=_SKIPS, flags=_FLAGS
    )


def error_page(visitor: Visitor | None, problem: str, fix: str) -> str:
    return _page("error.html", visitor, "", problem=problem, fix=fix)


def _page(template: str, visitor: Visitor | None, login: str, **values: Any) -> str:
    # Ratings that wait in a browser belong to who gave them; their names for it must not tell who that is.
    mine = hashlib.sha256(f"outbox of {visitor.id}".encode()).hexdigest()[:16] if visitor else ""
    return environment().get_template(template).render(visitor=visitor, login=login, mine=mine, **values)


def task_html(task: Task) -> Markup:
    """The part of the page that changes with each task."""
    pair = difference(*task.responses) if len(task.responses) == 2 else None
    said = (
        environment()
        .get_template("task.html")
        .render(
            task=task,
            now=time.time(),
            asked=asking.questions(task),
            turns=asking.turns(task.prompt),
            pair=pair,
            given=json.dumps(dict(task.given), ensure_ascii=False) if task.given is not None else "",
        )
    )
    return Markup(said)


def waiting_html(held: NoTask, campaign: str) -> Markup:
    """Why there is nothing to rate, and what the rater can do."""
    return Markup(environment().get_template("waiting.html").render(held=held, campaign=campaign))


def rubric_html(rubric: Rubric) -> Markup:
    return Markup(environment().get_template("rubric.html").render(rubric=rubric))


def expected_html(task: Task, expected: Mapping[str, Any]) -> Markup:
    """The right answer to a practice task."""
    return Markup(environment().get_template("expected.html").render(said=asking.in_words(task, expected)))
