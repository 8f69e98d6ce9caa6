"""The rating page over the real desk and its database: what keys say is what is stored, once, with its history."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from llmops.feedback.desk import Desk
from tests.feedback.pages.hands import opened, press, saved_mark
from tests.feedback.pages.site import Site
from tests.feedback.small_campaigns import standing, start

pytestmark = pytest.mark.xdist_group("rating-page")


def test_a_campaign_is_rated_to_its_end_through_kills_of_server_and_browser(
    sqlite: Engine, serve: Callable[..., Site], browse: Callable[..., Any]
) -> None:
    """Every item ends with exactly one rating that stands, whatever is killed in between."""
    from playwright.sync_api import expect

    start(sqlite, 12, raters=["rater-1"], name="help", tags=["odd"])
    desk = Desk(sqlite)
    site = serve(desk)
    context = browse()
    tab = opened(context, site)
    chance = random.Random(7)
    for turn in range(12):
        if turn in (3, 8):
            site.swallowing = 1  # stored, and the answer lost
        before = tab.locator(".task").get_attribute("data-assignment")
        press(tab, chance.choice("1234567"), "Enter")
        if turn == 4:
            expect(tab.locator(f".task:not([data-assignment='{before}'])")).to_be_visible()
            press(tab, "u")
            expect(tab.locator(f".task[data-assignment='{before}']")).to_be_visible()
            press(tab, "4", "Enter")
        if turn == 5:
            site.kill()
            site.start()
        if turn == 9:
            tab.close(run_before_unload=False)
            tab = opened(context, site)
        expect(tab.locator("#place:not([aria-busy])")).to_be_attached()
        expect(tab.locator("[data-state='away']")).to_have_count(0)
        expect(tab.get_by_role("heading", level=1)).to_be_visible()
    # One that was on its way when the browser was killed may come once more.
    while tab.locator(".task").count():
        press(tab, "4", "Enter")
        saved_mark(tab, "Saved")
    expect(tab.get_by_role("heading", level=1)).to_have_text("All done")
    saved_mark(tab, "Saved")
    filled = standing(sqlite)
    assert len(filled) == 12
    assert all(raters == ["rater-1"] for raters in filled.values())
    with sqlite.connect() as connection:
        replaced = connection.execute(text("SELECT count(*) FROM ratings WHERE supersedes IS NOT NULL")).scalar_one()
    assert replaced >= 1
    assert desk.progress("help", "rater-1").mine == 12
