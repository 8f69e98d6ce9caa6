"""What a rater's hands and eyes do in these tests."""

from __future__ import annotations

from typing import Any

from tests.feedback.pages.site import FakeDesk, Site
from tests.patience import wait_until


def opened(context: Any, site: Site) -> Any:
    """A new tab on the rating page, ready for keys."""
    tab = context.new_page()
    tab.goto(f"{site.address}/rate/help")
    ready(tab)
    return tab


def ready(tab: Any) -> None:
    tab.locator("html[data-ready]").wait_for()


def next_is_here(tab: Any) -> None:
    """The page has fetched the task after the one it shows."""
    fetched = "performance.getEntriesByType('resource').some(e => e.name.endsWith('ahead') && e.responseEnd)"
    wait_until(lambda: tab.evaluate(fetched), "the next one is not asked for")


def press(tab: Any, *keys: str) -> None:
    for key in keys:
        tab.keyboard.press(key)


def caught(tab: Any, held: list[Any]) -> Any:
    """What a route holds back, once it came: the browser is heard only while it is asked something."""
    wait_until(lambda: tab.evaluate("1") and held, "it was not asked for")
    return held[0]


def stored(desk: FakeDesk, count: int = 1) -> list[Any]:
    """Ratings in the order they were stored, once there are so many."""
    wait_until(lambda: len(desk.ratings) >= count, f"there are no {count} ratings")
    return list(desk.ratings.values())


def on_task(tab: Any, number: int) -> None:
    from playwright.sync_api import expect

    expect(tab.locator(".turn")).to_contain_text(f"Question {number}")


def saved_mark(tab: Any, text: str) -> None:
    from playwright.sync_api import expect

    expect(tab.locator("#saved .words")).to_have_text(text)
