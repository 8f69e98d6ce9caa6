"""A real browser without scripts gets in, out and in again, and the strict headers stand in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from llmops.feedback.invitations import Invitations
from tests.chromium import chromium_browser
from tests.feedback.accounts.service import PASSWORD, served
from tests.patience import HANG_S


@pytest.fixture
def page() -> Iterator[tuple[Any, list[str]]]:
    """A tab of a browser that runs no scripts, and what its console complains of."""
    with chromium_browser() as browser:
        tab = browser.new_context(java_script_enabled=False).new_page()
        tab.set_default_timeout(1000 * HANG_S)
        said: list[str] = []
        tab.on("console", lambda line: said.append(line.text))
        yield tab, said


def test_an_invitation_a_name_a_password_and_one_is_in(engine: Engine, page: tuple[Any, list[str]]) -> None:
    tab, said = page
    with served(engine) as (address, house):
        links: Invitations = house.entrance.invitations
        secret = links.first_admin()
        tab.goto(f"{address}/invitation/{secret}")
        tab.get_by_label("Login").fill("root")
        tab.get_by_label("Name").fill("Root <b>of</b> all")
        tab.get_by_label("Password", exact=True).fill(PASSWORD)
        tab.get_by_label("The same password again").fill(PASSWORD)
        tab.get_by_role("button", name="Accept").click()
        assert tab.url == f"{address}/"
        assert tab.get_by_role("heading", level=1).inner_text() == "Your campaigns"

        tab.get_by_role("link", name="Root <b>of</b> all").click()
        tab.get_by_role("link", name="Invitations").click()
        tab.get_by_label("Campaigns, with commas").fill("whales")
        tab.get_by_role("button", name="Make a link").click()
        link = tab.locator("code.link").inner_text()
        assert link.startswith(f"{address}/invitation/")
        assert "rater · whales" in tab.get_by_role("listitem").inner_text()

        tab.goto(f"{address}/account")
        tab.get_by_role("button", name="Sign out").click()
        assert tab.url == f"{address}/login"
        tab.goto(f"{address}/people")
        assert tab.url == f"{address}/login?next=/people"
        tab.get_by_label("Login").fill("ROOT")
        tab.get_by_label("Password").fill("wrong password it is")
        tab.get_by_role("button", name="Sign in").click()
        assert "is wrong" in tab.get_by_role("alert").inner_text()
        tab.get_by_label("Password").fill(PASSWORD)
        tab.get_by_role("button", name="Sign in").click()
        assert tab.url == f"{address}/people"
        assert tab.get_by_role("heading", level=1).inner_text() == "People"
        assert house.told == []
    assert [line for line in said if "401" not in line] == [], "no violation of the policy, nothing missing"
