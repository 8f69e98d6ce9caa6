"""What the rating page's scripts rely on: states, refusals and files, and nothing else in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from llmops.feedback import pages, static
from llmops.feedback.tasks import NoTask, Task
from llmops.rubric import Rubric
from tests.feedback.pages.site import CSRF, FakeDesk, Site
from tests.feedback.pages.tasks_shown import HELPFUL, task, tasks

HEADERS = {"x-csrf-token": CSRF}


@pytest.fixture
def site() -> Site:
    return Site(FakeDesk(tasks("pairwise")))


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with TestClient(site.app, headers=HEADERS, follow_redirects=False) as client:
        yield client


def given(**changes: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "assignment": "assignment-0",
        "rubric": HELPFUL.digest,
        "verdict": {"kind": "pairwise", "step": 1},
        **changes,
    }


def test_next_and_ahead_give_tasks_and_the_states(site: Site, client: TestClient) -> None:
    first = client.post("/api/campaigns/help/next").json()
    assert set(first) == {"state", "assignment", "until", "html"}
    assert (first["state"], first["assignment"]) == ("task", "assignment-0")
    assert client.post("/api/campaigns/help/ahead").json()["assignment"] == "assignment-1"
    site.desk.tasks, site.desk.waiting = [], NoTask("taken", 61.0)
    assert client.post("/api/campaigns/help/next").json().items() >= {"state": "taken", "free_in": 61.0}.items()
    assert "1:01" in client.get("/rate/help").text


def test_a_rating_is_acknowledged_and_its_repetition_too(client: TestClient) -> None:
    one = given()
    assert client.post("/api/ratings", json=one).json() == {
        "id": one["id"], "again": False, "surplus": False, "expected_html": None,
    }  # fmt: skip
    assert client.post("/api/ratings", json=one).json()["again"]
    assert client.get("/api/campaigns/help/progress").json()["mine"] == 1
    again = client.get("/api/assignments/assignment-0").json()["html"]
    assert one["id"] in again
    assert client.get("/api/campaigns/help/previous").json()["assignment"] == "assignment-0"
    assert client.get("/api/campaigns/help/previous?before=assignment-0").status_code == 404


def test_refusals_name_their_kind(site: Site, client: TestClient) -> None:
    bodies: tuple[Any, ...] = (given(verdict={"kind": "pairwise", "step": 9}), given(id="x"), given(extra=1), [])
    for body in bodies:
        answer = client.post("/api/ratings", json=body)
        assert (answer.status_code, answer.json()["kind"]) == (422, "invalid")
    assert client.get("/api/assignments/other").json()["kind"] == "unknown"
    assert client.post("/api/ratings", json=given(), headers={"x-csrf-token": "no"}).json()["kind"] == "csrf"
    client.post("/api/ratings", json=(first := given()))
    conflict = client.post("/api/ratings", json=given())
    assert (conflict.status_code, conflict.json()["newest"]) == (409, first["id"])
    site.desk.rubric = Rubric.model_validate({**HELPFUL.model_dump(), "version": 2})
    changed = client.post("/api/ratings", json=given(assignment="assignment-1"))
    assert (changed.status_code, changed.json()["rubric"]) == (409, site.desk.rubric.digest)
    assert "version 1" in changed.json()["old_html"]
    assert "version 2" in changed.json()["new_html"]
    assert client.post("/api/ratings?accept_old=1", json=given(assignment="assignment-1")).status_code == 200


def test_without_a_session_pages_lead_to_the_login_and_requests_are_refused(site: Site, client: TestClient) -> None:
    site.logged_in = False
    page = client.get("/rate/help")
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=/rate/help")
    for method, path in (
        ("POST", "/api/campaigns/help/next"), ("POST", "/api/ratings"), ("GET", "/api/assignments/assignment-0"),
        ("GET", "/api/campaigns/help/progress"), ("POST", "/api/assignments/assignment-0/extend"),
        ("POST", "/api/assignments/assignment-0/release"), ("GET", "/api/campaigns/help/previous"),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["kind"]) == (401, "login"), path


def test_static_files_are_ours_alone_and_are_kept_for_good_under_an_address_of_their_version(
    client: TestClient,
) -> None:
    for name, (content, kind) in static.static_files().items():
        answer = client.get(static.static_path(name))
        assert answer.content == content
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in answer.headers["cache-control"]
        assert client.get(f"/static/{'0' * 16}/{name}").status_code == 404, "another version's page gets no script"
    for name in ("rate.html", "__init__.py", "..%2fpages.py", "%2e%2e/%2e%2e/desk.py", "..%5cpages.py"):
        assert client.get(static.static_path(name)).status_code == 404
        assert client.get(f"/static/{name}").status_code == 404


def test_another_file_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = static.static_version(), static.static_files()
    static.static_version.cache_clear()
    monkeypatch.setattr(static, "static_files", lambda: {**known, "rate.js": (b"", "text/javascript")})
    try:
        assert static.static_version() != before
    finally:
        static.static_version.cache_clear()


def test_a_page_names_all_its_scripts_at_once_and_no_others(client: TestClient) -> None:
    import re

    for path, script in (("/", "start.js"), ("/rate/help", "rate.js")):
        named = re.findall(r'(?:modulepreload" href|src)="/static/\w+/([^"]+)', client.get(path).text)
        wanted, ahead = {script}, [script]
        while ahead:
            content = static.static_files()[ahead.pop()][0].decode()
            for name in set(re.findall(r'from\s*"\./([^"]+)"', content)) - wanted:
                wanted.add(name)
                ahead.append(name)
        assert sorted(named) == sorted(wanted)


def test_pages_hold_no_script_and_no_style_of_their_own_and_load_nothing_from_elsewhere(client: TestClient) -> None:
    import re

    for path in ("/", "/rate/help"):
        page = client.get(path).text
        assert re.findall(r"<script(?![^>]*\ssrc=\"/static/)", page) == []
        assert not re.search(r"<style|\sstyle=|\son\w+=", page)
        assert {one for one in re.findall(r"(?:src|href)=\"([^\"]*)", page) if not one.startswith(("/", "#"))} == set()
    for name, (content, kind) in static.static_files().items():
        assert b"http" not in content.replace(b"http://www.w3.org/2000/svg", b""), (name, kind)


def test_a_task_tells_the_page_neither_model_nor_source_nor_kind() -> None:
    assert set(Task.__slots__) == {
        "assignment", "campaign", "kind", "until", "rubric", "prompt", "responses", "tags", "practice", "given",
    }  # fmt: skip
    one, two = (pages.task_html(task("pairwise", number)) for number in (0, 1))
    import re

    def without_own(text: str) -> str:
        return re.sub(r'data-left="[^"]*"|assignment-\d|Question \d', "", text)

    assert without_own(one) == without_own(two)


def test_two_raters_keep_their_outboxes_apart_and_unnamed() -> None:
    one, two = (pages.Visitor(id=f"rater-{n}", name="n", csrf="c") for n in (1, 2))
    held = NoTask("finished")
    progress = FakeDesk().progress("help", "r")
    marks = [
        pages.rate_page(who, "help", held, progress, login="/login").split('data-mine="')[1][:16] for who in (one, two)
    ]
    assert marks[0] != marks[1]
    assert "rater-1" not in pages.rate_page(one, "help", held, progress, login="/login")
