"""An answer that breaks off, or is none of ours, is as no answer: nothing of it is shown, and it is asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.feedback.pages.hands import next_is_here, on_task, press, saved_mark, stored
from tests.feedback.pages.site import FakeDesk, Site
from tests.feedback.pages.tasks_shown import tasks
from tests.patience import wait_until

pytestmark = [pytest.mark.xdist_group("rating-page"), pytest.mark.parametrize("how", ["body", "page"])]
Rate = Callable[..., tuple[Site, Any]]


def test_of_the_next_task(rate: Rate, how: str) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    next_is_here(tab)
    site.taking = False  # so that none is fetched ahead
    press(tab, "6", "Enter")
    on_task(tab, 1)
    site.taking = True
    site.breaking["/api/campaigns/help/next"] = how
    press(tab, "5", "Enter")
    expect(tab.get_by_role("heading", name="The server is away")).to_be_visible()
    assert "undefined" not in tab.locator("#place").inner_text()
    press(tab, "Enter")  # ask now
    on_task(tab, 2)
    saved_mark(tab, "Saved")


def test_to_a_rating(rate: Rate, how: str) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    next_is_here(tab)
    site.breaking["/api/ratings"] = how
    press(tab, "6", "Enter")
    on_task(tab, 1)
    wait_until(lambda: len(desk.arrivals) == 2, "it is not sent again")
    saved_mark(tab, "Saved")
    assert len(stored(desk)) == 1


def test_of_the_task_after_this_one(rate: Rate, how: str) -> None:
    desk = FakeDesk(tasks("pairwise"))
    site, tab = rate(desk)
    next_is_here(tab)
    site.breaking["/api/campaigns/help/ahead"] = how
    press(tab, "6", "Enter")
    on_task(tab, 1)
    wait_until(lambda: not site.breaking, "it is not asked for")
    press(tab, "5", "Enter")
    on_task(tab, 2)
    saved_mark(tab, "Saved")
