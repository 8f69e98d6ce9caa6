"""The owner's pages in a browser: used by everybody and by keyboard, kept up to date; no text of others runs there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Engine

from llmops.feedback.desk import Desk
from llmops.feedback.items import Response
from llmops.feedback.raters import pause
from llmops.feedback.tasks import Task
from tests.feedback.accounts.service import Service, served
from tests.feedback.pages.payloads import MARKS, PAYLOADS
from tests.feedback.pages.test_states import violations_in_both_schemes
from tests.feedback.small_campaigns import given, item, start


@dataclass
class Owned:
    """A campaign `c` of a running service; `cookie` is its owner's session."""

    address: str
    house: Service
    desk: Desk
    engine: Engine
    cookie: dict[str, str]
    raters: list[str]

    def rate(self, rater: str, step: int, times: int, **more: Any) -> None:
        for _ in range(times):
            self.house.clock.now += 30
            task = self.desk.next("c", rater)
            assert isinstance(task, Task)
            first = task.responses[0] == "one" or task.responses[0].startswith("1")
            self.desk.submit(given(task, {"kind": "pairwise", "step": step if first else -step}, **more), rater)


@pytest.fixture
def owned(sqlite: Engine) -> Iterator[Owned]:
    with served(sqlite) as (address, house):
        raters = [house.person("rater", "c", login=name) for name in ("ann", "bob")]
        owner = house.person("owner", "c", login="owner")
        cookie = {"name": house.entrance.cookies.session, "value": house.entrance.sessions.begin(owner), "url": address}
        yield Owned(address, house, Desk(sqlite, clock=house.clock), sqlite, cookie, raters)


@pytest.fixture
def rated(owned: Owned) -> Owned:
    """Thirty items, two raters who differ on six of them."""
    start(owned.engine, 30, overlap=2)
    owned.rate(owned.raters[0], 2, 30)
    owned.rate(owned.raters[1], 1, 24)
    owned.rate(owned.raters[1], -1, 3)
    return owned


def test_everybody_can_use_it_in_both_schemes_wide_and_narrow(rated: Owned, browse: Callable[..., Any]) -> None:
    context = browse(viewport={"width": 320, "height": 700})
    context.add_cookies([rated.cookie])
    tab = context.new_page()
    for path in ("/campaigns/c", "/campaigns/c/disagreements"):
        tab.goto(rated.address + path)
        assert tab.evaluate("document.documentElement.scrollWidth") == 320, "only tables scroll sideways"
        assert violations_in_both_schemes(tab) == []
        tab.set_viewport_size({"width": 1280, "height": 800})
        assert violations_in_both_schemes(tab) == []
        tab.set_viewport_size({"width": 320, "height": 700})


def test_a_rater_is_paused_and_resumed_by_keyboard(rated: Owned, browse: Callable[..., Any]) -> None:
    context = browse()
    context.add_cookies([rated.cookie])
    tab = context.new_page()
    tab.goto(f"{rated.address}/campaigns/c")
    button = tab.get_by_role("button", name=f"Pause {rated.raters[0]}")
    for _ in range(60):
        tab.keyboard.press("Tab")
        if button.evaluate("one => one === document.activeElement"):
            break
    tab.keyboard.press("Enter")
    resume = tab.get_by_role("button", name=f"Resume {rated.raters[0]}")
    resume.wait_for()
    assert not isinstance(rated.desk.next("c", rated.raters[0]), Task)
    resume.press("Enter")
    button.wait_for()


def test_the_page_keeps_itself_up_to_date_where_it_is_looked_at_and_the_focus_stays(
    rated: Owned, browse: Callable[..., Any]
) -> None:
    from playwright.sync_api import expect

    context = browse()
    context.add_cookies([rated.cookie])
    tab = context.new_page()
    tab.clock.install()
    tab.goto(f"{rated.address}/campaigns/c")
    ratings = tab.locator("#progress dd").first
    expect(ratings).to_have_text("57 of 60")
    tab.get_by_role("button", name=f"Pause {rated.raters[0]}").focus()
    rated.rate(rated.raters[1], 1, 1)
    pause(rated.engine, "c", rated.raters[1], actor="test")
    tab.clock.fast_forward(16_000)
    expect(ratings).to_have_text("58 of 60")
    expect(tab.get_by_role("button", name=f"Resume {rated.raters[1]}")).to_be_visible()
    expect(tab.get_by_role("button", name=f"Pause {rated.raters[0]}")).to_be_focused()

    live = tab.get_by_role("button", name="Keeps itself up to date")
    live.press("Enter")
    expect(live).to_have_attribute("aria-pressed", "false")
    rated.house.clock.now += 60
    before = tab.locator("#as-of").inner_text()
    tab.clock.fast_forward(60_000)
    expect(tab.locator("#as-of")).to_have_text(before)
    live.press("Enter")
    expect(tab.locator("#as-of")).not_to_have_text(before)


def test_what_stands_in_the_way_of_a_refresh_is_said(rated: Owned, browse: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    context = browse()
    context.add_cookies([rated.cookie])
    tab = context.new_page()
    tab.clock.install()
    tab.goto(f"{rated.address}/campaigns/c")
    trouble = tab.locator("#trouble")
    context.set_offline(True)
    tab.clock.fast_forward(16_000)
    expect(trouble).to_have_text("The service does not answer; it is asked again.")
    context.set_offline(False)
    tab.clock.fast_forward(16_000)
    expect(trouble).to_be_hidden()
    context.clear_cookies()
    tab.clock.fast_forward(16_000)
    expect(trouble).to_have_text("The session has ended: load the page again to sign in.")


def test_without_scripts_all_of_it_is_there(rated: Owned, browse: Callable[..., Any]) -> None:
    context = browse(java_script_enabled=False)
    context.add_cookies([rated.cookie])
    tab = context.new_page()
    tab.goto(f"{rated.address}/campaigns/c")
    assert tab.locator("section svg").count() >= 5
    tab.get_by_role("link", name="Look at them, the worst first").click()
    first = tab.locator("article").first
    first.get_by_label("More ratings").fill("2")
    first.get_by_role("button", name=re.compile("Ask for them")).click()
    assert "2 more ratings of this item are asked for." in tab.locator("article").first.inner_text()


def test_nothing_that_models_and_raters_wrote_runs_or_is_fetched(owned: Owned, browse: Callable[..., Any]) -> None:
    hostile = [
        replace(
            item(number),
            prompt=[{"role": payload[:50], "content": payload}],
            responses=[Response(f"1 {payload}", payload), Response(f"2 {payload}", f"{payload} too")],
        )
        for number, payload in enumerate(PAYLOADS)
    ]
    start(owned.engine, hostile, overlap=2, tags=PAYLOADS[:1])
    for number, payload in enumerate(PAYLOADS):
        for rater, step in zip(owned.raters, (1, -1), strict=True):
            more = {"comment": payload, "flag": None, "tags": [PAYLOADS[0]] if not number else []}
            owned.rate(rater, step, 1, **more)
    context = browse()
    context.add_cookies([owned.cookie])
    tab = context.new_page()
    fetched: list[str] = []
    trouble: list[str] = []
    tab.on("request", lambda request: fetched.append(request.url))
    tab.on("dialog", lambda dialog: trouble.append(dialog.message))
    tab.on("console", lambda line: trouble.append(line.text))
    paths = ["", *(f"/disagreements?page={page}" for page in range(1, 6))]
    shown = 0
    for path in paths:
        assert tab.goto(f"{owned.address}/campaigns/c{path}").status == 200
        shown += tab.locator("article").count()
        tab.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert tab.locator("main script, main iframe, main img, main style, main object, main [onerror]").count() == 0
    assert shown == len(PAYLOADS)
    assert trouble == []
    assert [url for url in fetched if MARKS in url or not url.startswith(owned.address)] == []
