"""Visitors of other sites say what they think of an answer: vouched for by the site, from its pages, stored once."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from llmops.feedback.settings import FeedbackService
from llmops.feedback.widget_pages import ELSEWHERE, Thumb, widget_routes
from llmops.feedback.widget_token import parted, token_for, vouched, widget_key
from llmops.lifecycle.widget_thumbs import kept_in_ledger
from tests.feedback.accounts.service import NOW, Browser, service
from tests.feedback.small_campaigns import item, start

SECRET = "0123456789abcdef" * 4
KEY = widget_key(SECRET, "site.thumbs")
SITE = "https://shop.example"
WORDS = st.text(min_size=1, max_size=40)


@given(campaign=WORDS, request=WORDS, other=WORDS, until=st.integers(0, 10**12))
@settings(max_examples=60, deadline=None)
def test_a_token_vouches_for_one_request_of_one_campaign_until_it_ends(
    campaign: str, request: str, other: str, until: int
) -> None:
    key = widget_key(SECRET, campaign)
    found = parted(token_for(key, campaign, request, until=until))
    assert found is not None
    assert (found.campaign, found.until) == (campaign, until)
    assert vouched(found, key, request, now=until - 1)
    assert not vouched(found, key, request, now=until)
    assert vouched(found, key, other, now=until - 1) == (other == request)
    assert vouched(found, widget_key(SECRET, other), request, now=until - 1) == (other == campaign)
    assert not vouched(found, widget_key(SECRET + "x", campaign), request, now=until - 1)


def test_a_token_is_what_its_description_says_for_other_languages() -> None:
    by_hand = hmac.new(KEY.encode(), b"site.thumbs\nr-1\n2000000000", hashlib.sha256).hexdigest()
    assert token_for(KEY, "site.thumbs", "r-1", until=2_000_000_000.7) == f"site.thumbs.2000000000.{by_hand}"


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "a.1", "1.x", "a.٣.ff", "a.9999999999999999.ff", "a.-1.ff"])
def test_what_is_no_token_is_none(token: str) -> None:
    assert parted(token) is None


@pytest.fixture
def elsewhere(sqlite: Engine) -> Browser:
    """A browser on a page of the site that embeds the widget."""
    start(sqlite, [item(0, ("one",))], kind="thumbs", name="site.thumbs", widget_origins=[SITE])
    start(sqlite, [item(0, ("one",))], kind="thumbs", name="closed")
    house = service(
        sqlite,
        FeedbackService(secret=SECRET),
        routers=lambda accounts: [widget_routes(sqlite, SECRET, kept_in_ledger(sqlite), clock=accounts.clock)],
        elsewhere=[ELSEWHERE],
    )
    return house.browser()


def send(browser: Browser, origin: str = SITE, **changes: Any) -> Any:
    body = {"request": "r-1", "thumbs": "up", **changes}
    body.setdefault("token", token_for(KEY, "site.thumbs", "r-1", until=NOW + 60))
    headers = {"origin": origin, "sec-fetch-site": "cross-site", "accept": "application/json"}
    return browser.ask("POST", "/widget/thumbs", json=body, headers=headers)


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [
            tuple(row) for row in connection.execute(text("SELECT request, thumb, comment FROM feedback ORDER BY at"))
        ]


def test_a_thumb_is_stored_once_however_often_it_is_sent_and_another_corrects_it(
    elsewhere: Browser, sqlite: Engine
) -> None:
    for _ in range(3):
        answer = send(elsewhere)
        assert (answer.status_code, answer.json()) == (200, {})
        assert answer.headers["access-control-allow-origin"] == SITE
    assert rows(sqlite) == [("r-1", "up", None)]
    assert send(elsewhere, thumbs="down", comment="wrong").status_code == 200
    assert rows(sqlite) == [("r-1", "up", None), ("r-1", "down", "wrong")]
    assert send(elsewhere, thumbs="up").status_code == 200
    assert [row[1] for row in rows(sqlite)] == ["up", "down", "up"]


def test_the_same_thumb_at_once_is_stored_once(sqlite: Engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    keep = kept_in_ledger(sqlite)
    thumb = Thumb("site.thumbs", "r-1", True, "", "ab" * 32, NOW)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, [thumb] * 24))
    assert rows(sqlite) == [("r-1", "up", None)]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        pytest.param({"request": "r-2"}, 403, id="another request"),
        pytest.param({"token": token_for(KEY, "site.thumbs", "r-1", until=NOW)}, 403, id="ended"),
        pytest.param({"token": token_for("k", "site.thumbs", "r-1", until=NOW + 9)}, 403, id="another key"),
        pytest.param({"token": token_for(KEY, "closed", "r-1", until=NOW + 9)}, 403, id="another campaign by this key"),
        pytest.param(
            {"token": token_for(widget_key(SECRET, "closed"), "closed", "r-1", until=NOW + 9)},
            403,
            id="a campaign without sites",
        ),
        pytest.param(
            {"token": token_for(widget_key(SECRET, "none"), "none", "r-1", until=NOW + 9)}, 403, id="no campaign"
        ),
        pytest.param({"origin": "https://evil.example"}, 403, id="another site"),
        pytest.param({"origin": "null"}, 403, id="no site"),
        pytest.param({"thumbs": "sideways"}, 422, id="no thumb"),
        pytest.param({"more": 1}, 422, id="more than is asked"),
        pytest.param({"comment": "x" * 20_000}, 413, id="too long"),
    ],
)
def test_what_is_not_vouched_for_is_refused_and_nothing_is_stored(
    elsewhere: Browser, sqlite: Engine, changes: dict[str, Any], status: int
) -> None:
    answer = send(elsewhere, **changes)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert rows(sqlite) == []


def test_one_network_cannot_send_without_end(elsewhere: Browser) -> None:
    assert {send(elsewhere).status_code for _ in range(60)} == {200}
    answer = send(elsewhere)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(("origin", "status"), [(SITE, 204), ("https://evil.example", 403), ("", 403)])
def test_a_browser_is_told_before_whether_its_site_may_send(elsewhere: Browser, origin: str, status: int) -> None:
    answer = elsewhere.ask("OPTIONS", "/widget/thumbs", headers={"origin": origin})
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin", "") == (origin if status == 204 else "")


def test_the_script_may_be_loaded_by_other_sites(elsewhere: Browser) -> None:
    answer = elsewhere.get("/widget/thumbs.js")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/javascript")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
