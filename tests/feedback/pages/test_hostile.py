"""Whatever stands in a text, a name or a label is shown as text: nothing runs, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from llmops.feedback.pages import Offered
from llmops.feedback.tasks import Progress
from llmops.rubric import Rubric
from tests.feedback.pages.hands import opened, press, ready, saved_mark
from tests.feedback.pages.payloads import MARKS, PAYLOADS
from tests.feedback.pages.site import FakeDesk, Site
from tests.feedback.pages.tasks_shown import task
from tests.patience import wait_until

pytestmark = pytest.mark.xdist_group("rating-page")
ALL = "\n\n".join(PAYLOADS)
SHOWN = 4
"""Payloads at one time in fields that hold one line."""


@pytest.fixture
def watched(serve: Callable[..., Site], browse: Callable[..., Any]) -> Any:
    """A site and a browser context; at the end no dialog was opened and only our own pages were asked for."""
    found: list[str] = []
    made: list[Site] = []
    contexts: list[Any] = []

    def opened_dialog(dialog: Any) -> None:
        found.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def start(desk: FakeDesk, **rest: Any) -> tuple[Site, Any]:
        site = serve(desk, **rest)
        made.append(site)
        context = browse()
        contexts.append(context)
        context.on("dialog", opened_dialog)
        context.on("request", lambda request: found.append(request.url) if _foreign(request.url, site) else None)
        context.on("page", lambda page: found.append("window") if len(context.pages) > 1 else None)
        return site, context

    yield start
    for page in [page for context in contexts for page in context.pages]:
        page.wait_for_timeout(50)  # reports come a little later
    assert found == []
    assert [site.reports for site in made] == [[] for _ in made]


def _foreign(url: str, site: Site) -> bool:
    return not url.startswith(f"{site.address}/") or MARKS in url


def clean(tab: Any) -> None:
    """Nothing on the page can act that is not ours."""
    place = tab.locator("#place")
    acting = (
        "script, iframe, object, embed, img, video, audio, svg, link, style, base, meta, marquee, a[href^='javascript']"
    )
    assert place.locator(acting).count() == 0
    assert place.locator("a:not([href='/'])").count() == 0
    handlers = (
        "[...document.querySelectorAll('*')].filter(e => e.getAttributeNames().some(n => /^(on|style$|xlink)/.test(n)))"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert tab.evaluate(handlers) == []


def test_a_policy_that_is_broken_is_reported(serve: Any, browse: Any) -> None:
    """The reports that the other tests count do arrive."""
    site = serve(FakeDesk([task("pairwise")]))
    tab = opened(browse(), site)
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<b style=\"color: red\">x</b>')")
    wait_until(lambda: bool(site.reports), "nothing is reported")


@pytest.mark.parametrize("kind", ["pairwise", "correction"])
def test_answers_and_prompts_of_every_payload_are_text_in_every_view(watched: Any, kind: Any) -> None:
    other = ALL[::-1] if kind == "pairwise" else None
    shown = task(kind, responses=(ALL, other) if other else (ALL,), prompt=_turns())
    site, context = watched(FakeDesk([shown, shown]))
    tab = opened(context, site)
    for keys in ((), ("r",), ("d",), ("e",), ("Escape", "m")):
        press(tab, *keys)
        clean(tab)
    raw = tab.locator(".answer [data-view='raw']").first.evaluate("e => e.textContent")
    for payload in PAYLOADS:
        if payload.isascii() and "\x00" not in payload:
            assert payload in raw
    for code in ("U+202E", "U+200B", "U+2067", "U+E0069"):
        assert code in raw
    text = tab.locator(".answer [data-view='rendered']").first.evaluate("e => e.textContent")
    assert "\u202e" not in text
    assert "(javascript:alert(1))" in text
    assert tab.evaluate("document.title") == "help · Rating"


def _turns() -> Any:
    said = [{"role": role, "content": ALL} for role in (*PAYLOADS[:SHOWN], "user")]
    return (*said, {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": PAYLOADS[3]}}]})


@pytest.mark.parametrize("start", range(0, len(PAYLOADS), 12))
def test_tags_rubrics_names_and_labels_are_text(watched: Any, start: int) -> None:
    some = PAYLOADS[start : start + 12]
    words = " ".join(some)
    scale = {"kind": "attributes", "attributes": {f"q{n}": {"question": one} for n, one in enumerate(some)}}
    rubric = Rubric.model_validate(
        {"name": "x", "version": 1, "question": words, "instructions": "\n\n".join(some), "scale": scale}
    )
    desk = FakeDesk([task("rating", rubric=rubric, tags=tuple(one[:60] for one in some), responses=("a",))])
    site, context = watched(desk, offered=[Offered("help", "rating", words, Progress(1, 0, 0, None, None))])
    site.name = words
    tab = opened(context, site)
    press(tab, "t", "g")
    clean(tab)
    # A tag is sent as it was given, whatever it looks like.
    first = tab.locator("#tags input").first
    assert first.get_attribute("value") == some[0].replace("\x00", "\ufffd")[:60]
    tab.goto(site.address)
    expect(tab.locator(".visitor")).to_be_visible()
    clean_start = tab.locator("main img, main script, main svg, main iframe, .bar img, .bar script, .bar svg").count()
    assert clean_start == 0


def test_what_a_rater_wrote_comes_back_as_text(watched: Any) -> None:
    hostile = PAYLOADS[5] + PAYLOADS[24]
    desk = FakeDesk([task("pairwise")])
    site, context = watched(desk)
    tab = opened(context, site)
    press(tab, "c")
    tab.locator("#comment").fill(hostile)
    press(tab, "Escape", "f")
    tab.locator("#reason-text").fill(hostile)
    press(tab, "Enter", "m", "Control+a")
    tab.locator("#passage-label").fill(hostile)
    press(tab, "Enter", "1")
    clean(tab)
    saved_mark(tab, "Draft kept")
    tab.reload()
    ready(tab)
    expect(tab.locator("#comment")).to_have_value(hostile)
    expect(tab.locator("#flagged")).to_have_text(f"Flagged: {hostile}")
    expect(tab.locator(".marks li").first).to_contain_text(hostile)
    clean(tab)
    press(tab, "Enter", "Backspace")
    expect(tab.locator("#comment")).to_have_value(hostile)
    clean(tab)


def test_an_error_page_shows_the_name_that_was_asked_for_as_text(watched: Any) -> None:
    from urllib.parse import quote

    from llmops.feedback.faults import NotThere

    desk = FakeDesk()
    site, context = watched(desk)

    def missing(campaign: str, rater: str) -> Any:
        raise NotThere(f"there is no campaign {campaign!r}", fix="go back")

    desk.next = missing  # type: ignore[method-assign]
    tab = context.new_page()
    for payload in (PAYLOADS[0], PAYLOADS[5], PAYLOADS[35]):
        answer = tab.goto(f"{site.address}/rate/{quote(payload, safe='')}")
        if answer.status == 404 and "/" not in payload:
            expect(tab.locator("main")).to_contain_text("there is no campaign")
        assert tab.locator("main img, main script, main svg").count() == 0
