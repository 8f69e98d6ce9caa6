"""Why there is nothing to rate is told apart, and every kind and state can be used by everybody (axe, WCAG 2.2 AA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
from playwright.sync_api import expect

from llmops.feedback.campaign import Kind
from llmops.feedback.pages import Offered
from llmops.feedback.tasks import NoTask, Progress, Waiting
from tests.feedback.pages.hands import on_task, opened, press, ready
from tests.feedback.pages.site import FakeDesk, Site
from tests.feedback.pages.tasks_shown import CHECKED, task, tasks
from tests.patience import wait_until

pytestmark = pytest.mark.xdist_group("rating-page")
Rate = Callable[..., tuple[Site, Any]]
RICH = (
    "# Title\n\nText with `code`, [a link](https://example.org 'x') and ![alt](https://example.org/x.png).\n\n"
    "```python\ndef f(x):  # why\n    return 'a' + 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    "$$\\frac12$$ שלום \u202e x\n\n> quote\n\n1. one\n2. two\n"
)
HEADINGS = {
    "nothing": "Nothing is assigned to you",
    "taken": "All that is left is with others",
    "finished": "All done",
    "training": "Training comes first",
    "paused": "Rating is paused for you",
}


TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(tab: Any, *rules: str, within: str | None = None) -> list[str]:
    """What axe finds, by rule and element; of all rules for WCAG 2.2 AA, or of those named; on all of the page, or
    within an element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab, within, options={"runOnly": [*rules] or TAGS, "resultTypes": ["violations"]})
    return [f"{one['id']}: {node['html'][:200]}" for one in found.response["violations"] for node in one["nodes"]]


def violations_in_both_schemes(tab: Any) -> list[str]:
    tab.emulate_media(color_scheme="light", reduced_motion="reduce")
    light = violations(tab)
    tab.emulate_media(color_scheme="dark", reduced_motion="reduce")
    return light + violations(tab, "color-contrast")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("pairwise", {}),
        ("rating", {}),
        ("rating", {"rubric": CHECKED}),
        ("ranking", {}),
        ("thumbs", {}),
        ("correction", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_every_kind_can_be_used_by_everybody(rate: Rate, kind: Kind, changes: dict[str, Any]) -> None:
    answers = {"pairwise": 2, "rating": 2, "ranking": 3, "thumbs": 1, "correction": 1}[kind]
    desk = FakeDesk([task(kind, responses=tuple(f"{RICH} {n}" for n in range(answers)), **changes)])
    _, tab = rate(desk)
    press(tab, "1", "c", "Escape", "t", "g")
    assert violations_in_both_schemes(tab) == []


def test_every_state_is_told_apart_and_can_be_used_by_everybody(rate: Rate) -> None:
    assert set(HEADINGS) == set(get_args(Waiting))
    desk = FakeDesk()
    site, tab = rate(desk)
    for why, heading in HEADINGS.items():
        desk.waiting = NoTask(why, 83.0 if why == "taken" else None)  # type: ignore[arg-type]
        tab.goto(f"{site.address}/rate/help")
        expect(tab.get_by_role("heading", level=1)).to_have_text(heading)
        assert violations_in_both_schemes(tab) == []


def test_dialogs_differences_and_the_narrow_page_can_be_used_by_everybody(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    _, tab = rate(desk)
    for key, name in (("?", "keys"), ("s", "reason"), ("m", "passage")):
        press(tab, key)
        assert violations(tab, within=f"#{name}") == []
        press(tab, "Escape")
    press(tab, "d", "e")
    assert violations(tab) == []
    tab.set_viewport_size({"width": 390, "height": 844})
    assert violations(tab) == []


def test_the_start_page_lists_campaigns_with_progress(serve: Any, browse: Any) -> None:
    offered = [Offered("help", "pairwise", "Which?", Progress(30, 12, 4, (3, 4), 19.6))]
    site = serve(FakeDesk(tasks("pairwise")), offered=offered)
    tab = browse().new_page()
    tab.goto(site.address)
    card = tab.get_by_role("listitem")
    expect(card).to_contain_text("12 of 30 ratings")
    expect(card).to_contain_text("20 s an item")
    assert violations(tab) == []
    tab.get_by_role("link", name="Continue help").click()
    on_task(tab, 0)


def test_a_server_that_is_away_is_asked_again_by_itself(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise", 1))
    site, tab = rate(desk)
    site.kill()
    press(tab, "1", "Enter")
    expect(tab.get_by_role("heading", level=1)).to_have_text("The server is away")
    assert violations(tab) == []
    site.start()
    expect(tab.get_by_role("heading", level=1)).to_have_text("All done")


def test_taken_counts_down_and_then_asks_again(serve: Any, browse: Any) -> None:
    desk = FakeDesk(waiting=NoTask("taken", 3600.0))
    tab = browse().new_page()
    tab.clock.install()
    tab.goto(f"{serve(desk).address}/rate/help")
    ready(tab)

    def left_s() -> int:
        minutes, seconds = tab.locator(".countdown").inner_text().split(":")
        return 60 * int(minutes) + int(seconds)

    before = left_s()
    assert 3000 < before <= 3600
    tab.clock.fast_forward(10_000)
    wait_until(lambda: left_s() <= before - 10)
    assert left_s() > before - 600
    desk.tasks = tasks("pairwise", 1)
    tab.clock.fast_forward(3_600_000)
    on_task(tab, 0)


def test_focus_goes_to_the_question_of_each_new_task_and_news_is_read_out(rate: Rate) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    expect(tab.locator("#question")).to_be_focused()
    press(tab, "1")
    expect(tab.get_by_role("radio", name="A much better")).to_be_focused()
    site.answering = False
    press(tab, "Enter")
    expect(tab.locator("#said")).to_have_text("1 waiting")
    assert tab.locator("#said").get_attribute("aria-live") == "polite"
    for name in ("Response A", "Response B"):
        assert tab.get_by_role("region", name=name).count() <= 1


def test_at_200_percent_zoom_nothing_is_cut_off(rate: Rate) -> None:
    _, tab = rate(FakeDesk(tasks("pairwise")), viewport={"width": 640, "height": 400})
    assert tab.evaluate("document.documentElement.scrollWidth") == 640
    tab.get_by_role("button", name="Submit").scroll_into_view_if_needed()
    expect(tab.get_by_role("button", name="Submit")).to_be_in_viewport()


def test_everything_that_is_pressed_is_at_least_24_pixels_high_and_wide(rate: Rate) -> None:
    for width in (1280, 390):
        _, tab = rate(FakeDesk(tasks("ranking")), viewport={"width": width, "height": 844})
        sizes = tab.evaluate(
            "[...document.querySelectorAll('button, summary, label.option, input[type=checkbox]')]"
            ".map(e => e.getBoundingClientRect()).filter(r => r.width).map(r => Math.min(r.width, r.height))"
        )
        # A box of 20 pixels stands within its label, which can be pressed too (WCAG 2.5.8, spacing).
        assert min(sizes) >= 20
        assert sum(size < 24 for size in sizes) == tab.locator("input[type=checkbox]:visible").count()


def test_a_browser_that_keeps_nothing_is_asked_for_nothing(serve: Any, browse: Any) -> None:
    context = browse()
    context.add_init_script("Object.defineProperty(window, 'indexedDB', { value: { open() { throw Error('off') } } })")
    tab = context.new_page()
    tab.goto(f"{serve(FakeDesk(tasks('pairwise'))).address}/rate/help")
    expect(tab.get_by_role("heading", level=1)).to_have_text("This browser keeps nothing")


def test_a_browser_that_ends_a_task_elsewhere_is_told(rate: Rate, browse: Any) -> None:
    desk = FakeDesk(tasks("pairwise", 1))
    site, tab = rate(desk)
    again = opened(tab.context, site)
    press(again, "1", "Enter")
    expect(tab.get_by_role("heading", level=1)).to_have_text("All done")
