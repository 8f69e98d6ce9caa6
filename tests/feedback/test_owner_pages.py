"""An owner sees the report's own numbers, stops and starts raters, and asks for more ratings of an item."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import unescape
from typing import Any

import pytest
from sqlalchemy import Engine

from llmops.feedback.assembly import pages_of
from llmops.feedback.campaign_report import report_on
from llmops.feedback.desk import Desk
from llmops.feedback.disagreements import PER_PAGE
from llmops.feedback.events import events
from llmops.feedback.items import NewItem, Response
from llmops.feedback.ratings import items
from llmops.feedback.report_json import to_json
from llmops.feedback.store import campaigns
from llmops.feedback.tasks import NoTask, Task
from tests.feedback.accounts.service import Browser, Service, service
from tests.feedback.small_campaigns import given, item, start

JSON = {"accept": "application/json"}
Verdict = Callable[[Task], dict[str, Any]]


def prefers(text: str, step: int = 2) -> Verdict:
    """The answer with this text, wherever it is shown."""
    return lambda task: {"kind": "pairwise", "step": step if task.responses[0] == text else -step}


@dataclass
class Site:
    house: Service
    desk: Desk
    owner: Browser
    raters: tuple[str, str, str]

    def rate(self, rater: str, said: Verdict, times: int, **more: Any) -> None:
        for _ in range(times):
            self.house.clock.now += 60
            task = self.desk.next("c", rater)
            assert isinstance(task, Task)
            self.desk.submit(given(task, said(task), **more), rater)

    def page(self, more: str = "") -> str:
        answer = self.owner.get(f"/campaigns/c{more}")
        assert answer.status_code == 200
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", answer.text)))


@pytest.fixture
def site(sqlite: Engine) -> Site:
    start(sqlite, 24, overlap=2)
    house = service(sqlite, routers=lambda accounts: pages_of(sqlite, accounts))
    owner = house.signed_in(house.person("owner", "c", login="owner"))
    one, two, three = (house.person("rater", "c", login=name) for name in ("ann", "bob", "cid"))
    return Site(house, Desk(sqlite, clock=house.clock), owner, (one, two, three))


def test_the_numbers_are_those_of_the_report(site: Site, sqlite: Engine) -> None:
    site.rate(site.raters[0], prefers("one"), 12)
    site.rate(site.raters[1], prefers("two"), 6)
    numbers = site.owner.get("/api/campaigns/c/report", headers=JSON).json()
    assert numbers == to_json(report_on(sqlite, "c", now=site.house.clock.now, disagreements=2000))
    page = site.page()
    assert "ratings 18 of 48 items complete 6 of 24" in page
    assert "models:/secret/0" in page
    for rater in site.raters[:2]:
        assert rater in page
    assert "1.5 s" in page, "what `given` says each took"
    assert "On 6 items raters differ, at the worst 100%" in page
    assert "llmops feedback export c --for dpo" in page


def test_a_projected_end_comes_with_the_span_it_rests_on(site: Site) -> None:
    site.rate(site.raters[0], prefers("one"), 2)
    assert "No end can be projected yet" in site.page()
    site.rate(site.raters[0], prefers("one"), 20)
    site.house.clock.now += 60
    # 21 since the first, in 22 minutes; 26 are missing.
    page = site.page()
    assert "21 ratings in the last 22 minutes: 57 an hour." in page
    assert "At this pace the 26 that are missing are there in 27 minutes, on " in page


def test_what_was_kept_says_how_old_it_is(site: Site) -> None:
    at = re.compile(r"As of (\S+) UTC")
    (first,) = at.findall(site.page())
    site.house.clock.now += 9
    assert at.findall(site.page()) == [first]
    site.house.clock.now += 2
    assert at.findall(site.page()) != [first]


def test_a_paused_rater_gets_no_task_until_resumed(site: Site, sqlite: Engine) -> None:
    ann = site.raters[0]
    site.rate(ann, prefers("one"), 1)
    place = f"/campaigns/c/raters/{ann}"
    answer = post(site, f"{place}/pause")
    assert (answer.status_code, answer.headers["location"]) == (303, "/campaigns/c#raters")
    held = site.desk.next("c", ann)
    assert isinstance(held, NoTask)
    assert held.why == "paused"
    assert f"{ann} paused Resume" in site.page(), "at once, however old the report"
    site.house.clock.now += 1
    post(site, f"{place}/resume")
    assert isinstance(site.desk.next("c", ann), Task)
    kinds = [(one.kind, one.subject, one.actor) for one in events(sqlite, campaign="c") if one.subject == ann]
    owner = next(one.rater for one in site.house.accounts.people() if one.login == "owner")
    assert kinds == [("paused", ann, owner), ("resumed", ann, owner)]


def test_who_was_given_nothing_of_a_campaign_is_no_rater_of_it(site: Site) -> None:
    assert post(site, f"/campaigns/c/raters/{site.raters[2]}/pause").status_code == 404
    assert post(site, "/campaigns/c/raters/nobody/resume").status_code == 404


def test_a_reopened_item_goes_to_others_so_often(site: Site, sqlite: Engine) -> None:
    site.rate(site.raters[0], prefers("one"), 24)
    site.rate(site.raters[1], prefers("two"), 24)
    first = next(items(sqlite, "c")).id
    assert isinstance(site.desk.next("c", site.raters[2]), NoTask)
    answer = post(site, f"/campaigns/c/items/{first}/reopen", more="1", page="1")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/campaigns/c/disagreements?page=1&more=1&item={first}#item-{first}"
    shown = [site.page(f"/disagreements?page={page}&more=1&item={first}") for page in (1, 2)]
    assert [page.count("1 more rating of this item is asked for.") for page in shown].count(1) == 1
    assert [page.count("1 more rating of an item that is not on this page is asked for.") for page in shown].count(
        1
    ) == 1
    assert "ratings 48 of 49 items complete 23 of 24" in site.page()
    (state,) = campaigns(sqlite)
    assert state.wanted == 49
    site.rate(site.raters[2], prefers("one"), 1)
    assert isinstance(site.desk.next("c", site.raters[2]), NoTask)
    site.house.clock.now += 20
    assert "ratings 49 of 49 items complete 24 of 24" in site.page()


@pytest.mark.parametrize("more", ["0", "-1", "10", "1.5", "x", "", "٣", "9" * 5000])
def test_what_is_no_number_of_ratings_changes_nothing(site: Site, sqlite: Engine, more: str) -> None:
    first = next(items(sqlite, "c")).id
    assert post(site, f"/campaigns/c/items/{first}/reopen", more=more, page="1").status_code == 422
    assert campaigns(sqlite)[0].wanted == 48


def test_an_item_of_another_campaign_is_not_reopened(site: Site, sqlite: Engine) -> None:
    start(sqlite, 1, name="d")
    other = next(items(sqlite, "d")).id
    assert post(site, f"/campaigns/c/items/{other}/reopen", more="1", page="1").status_code == 404
    assert [one.wanted for one in campaigns(sqlite) if one.campaign.name == "d"] == [1]


def test_all_that_was_said_of_an_item_stands_side_by_side_named_as_the_answers_are_stored(site: Site) -> None:
    ann, bob, _ = site.raters
    site.rate(ann, prefers("one", 3), 22, comment="clear", tags=[])
    site.rate(bob, prefers("two", 1), 22)
    pages = [site.page(f"/disagreements?page={number}") for number in (1, 2)]
    assert [page.count("100 % of pairs of raters differ") for page in pages] == [PER_PAGE, 2]
    for page in pages:
        said = re.findall(rf"(?:{ann} A much better [AB] 1\.5 s “clear”|{bob} B slightly better [AB] 1\.5 s)", page)
        assert len(said) == 2 * page.count("100 % of pairs")
    assert site.page("/disagreements?page=99") == site.page("/disagreements?page=2")
    assert site.page("/disagreements?page=-5") == site.page("/disagreements?page=1")
    for name in ("ann", "Ann", "bob", "Bob"):
        assert not re.search(rf"\b{name}\b", pages[0]), "pseudonyms alone"


def test_what_does_not_count_is_shown_with_its_reason(site: Site) -> None:
    ann, bob, cid = site.raters
    for rater, verdict in ((ann, prefers("one")), (bob, prefers("two"))):
        site.rate(rater, verdict, 24)
    first = next(items(site.house.accounts.engine, "c")).id
    post(site, f"/campaigns/c/items/{first}/reopen", more="1", page="1")
    task = site.desk.next("c", cid)
    assert isinstance(task, Task)
    site.desk.submit(given(task, None), cid)
    site.house.clock.now += 20
    said = site.page("/disagreements?page=1") + site.page("/disagreements?page=2")
    assert f"{cid} skipped" in said
    assert "does not count: skipped: not my field" in said


def test_nothing_rated_is_a_page_all_the_same(site: Site) -> None:
    page = site.page()
    for said in (
        "ratings 0 of 48",
        "Nobody has rated yet.",
        "No two models have been compared yet.",
        "No two raters disagree.",
    ):
        assert said in page
    assert "No two raters disagree." in site.page("/disagreements")


def test_a_campaign_that_is_not_there_is_not_there_for_an_admin_either(site: Site) -> None:
    admin = site.house.signed_in(site.house.person("admin", login="root"))
    for path in ("/campaigns/none", "/campaigns/none/disagreements", "/api/campaigns/none/report"):
        assert admin.get(path).status_code == 404


def test_owners_find_the_page_from_their_campaigns_and_raters_do_not(site: Site) -> None:
    assert 'href="/campaigns/c"' in site.owner.get("/").text
    assert "/campaigns/" not in site.house.signed_in(site.raters[0]).get("/").text


@pytest.mark.parametrize(
    ("kind", "responses", "said", "words"),
    [
        ("thumbs", ("one",), ({"kind": "thumbs", "up": True}, {"kind": "thumbs", "up": False}), ("Good", "Bad")),
        (
            "correction",
            ("one",),
            ({"kind": "correction", "text": None}, {"kind": "correction", "text": "two"}),
            ("Right as it is", "two"),
        ),
    ],
)
def test_other_kinds_are_shown_in_the_words_of_their_page(
    sqlite: Engine, kind: str, responses: tuple[str, ...], said: tuple[dict[str, Any], ...], words: tuple[str, ...]
) -> None:
    start(sqlite, [item(0, responses)], overlap=2, kind=kind)
    house = service(sqlite, routers=lambda accounts: pages_of(sqlite, accounts))
    owner = house.signed_in(house.person("owner", "c", login="owner"))
    desk = Desk(sqlite, clock=house.clock)
    for number, verdict in enumerate(said):
        rater = house.person("rater", "c", login=f"r{number}")
        task = desk.next("c", rater)
        assert isinstance(task, Task)
        desk.submit(given(task, verdict), rater)
    page = owner.get("/campaigns/c/disagreements").text
    for one in words:
        assert f'<td dir="auto">{one}</td>' in page
    assert owner.get("/campaigns/c").status_code == 200


def test_models_of_unlike_groups_are_said_to_be_so(sqlite: Engine) -> None:
    def between(number: int, *models: str) -> NewItem:
        return replace(item(number), responses=[Response(*one) for one in zip(("one", "two"), models, strict=True)])

    start(sqlite, [between(0, "a", "b"), between(1, "c", "d")])
    house = service(sqlite, routers=lambda accounts: pages_of(sqlite, accounts))
    made = Site(
        house, Desk(sqlite, clock=house.clock), house.signed_in(house.person("admin", login="root")), ("", "", "")
    )
    made.rate(house.person("rater", "c", login="ann"), prefers("one"), 2)
    assert "The models fall into 2 groups that no comparison links" in made.page()


def post(site: Site, path: str, **form: str) -> Any:
    return site.owner.post(path, {"csrf": site.house.token(site.owner), **form})
