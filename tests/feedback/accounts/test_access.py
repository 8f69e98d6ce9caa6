"""Who may ask what: every route of the application, by every role; a route that is not named here fails."""

from __future__ import annotations

import pytest

from llmops.feedback.door import HEADERS, SAFE
from tests.feedback.accounts.world import MODEL, ROLES, World

# nobody, other rater, rater, other owner, admin, owner
OPEN = (200,) * 6
PAGE = (303, 200, 200, 200, 200, 200)
ADMIN_PAGE = (303, 403, 403, 403, 200, 403)
ADMIN = (401, 403, 403, 403, 303, 403)
MEMBERS = (401, 404, 200, 404, 200, 200)
OWNER_PAGE = (303, 404, 403, 404, 200, 200)
OWNER = (401, 404, 403, 404, 303, 303)
OWN = (401, 404, 200, 404, 404, 404)
"""A rater's own: neither owner nor admin reads or changes another's task by this way."""

MATRIX: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/health"): OPEN,
    ("GET", "/ready"): OPEN,
    ("GET", "/login"): (200, 303, 303, 303, 303, 303),
    ("POST", "/login"): (401,) * 6,  # with a wrong password
    ("POST", "/logout"): (401, 303, 303, 303, 303, 303),
    ("GET", "/invitation/{secret}"): OPEN,
    ("POST", "/invitation/{secret}"): (422,) * 6,  # with two passwords that differ
    ("GET", "/invitation/{secret}/openid"): (303,) * 6,
    ("GET", "/openid"): (303,) * 6,
    ("GET", "/openid/callback"): (400,) * 6,  # nothing was begun
    ("GET", "/account"): PAGE,
    ("POST", "/account/password"): (401, 422, 422, 422, 422, 422),  # without the present one
    ("POST", "/account/sessions"): (401, 200, 200, 200, 200, 200),
    ("GET", "/people"): ADMIN_PAGE,
    ("POST", "/people/{rater}/role"): ADMIN,
    ("POST", "/people/{rater}/campaigns"): ADMIN,
    ("POST", "/people/{rater}/skills"): ADMIN,
    ("POST", "/people/{rater}/close"): ADMIN,
    ("POST", "/people/{rater}/open"): (401, 403, 403, 403, 422, 403),  # it is open
    ("POST", "/people/{rater}/password"): (401, 403, 403, 403, 200, 403),
    ("GET", "/invitations"): (303, 403, 403, 200, 200, 200),
    ("POST", "/invitations"): (401, 403, 403, 404, 200, 200),
    ("POST", "/invitations/{which}/withdraw"): (401, 403, 403, 404, 303, 404),  # gone by then
    ("GET", "/"): PAGE,
    ("GET", "/rate/{campaign}"): (303, 404, 200, 404, 200, 200),
    ("POST", "/api/campaigns/{campaign}/next"): MEMBERS,
    ("POST", "/api/campaigns/{campaign}/ahead"): MEMBERS,
    ("GET", "/api/campaigns/{campaign}/progress"): MEMBERS,
    ("GET", "/api/campaigns/{campaign}/previous"): OWN,
    ("GET", "/api/assignments/{assignment}"): OWN,
    ("POST", "/api/assignments/{assignment}/extend"): OWN,
    ("POST", "/api/assignments/{assignment}/release"): OWN,
    ("POST", "/api/ratings"): OWN,
    ("GET", "/campaigns/{campaign}"): OWNER_PAGE,
    ("GET", "/campaigns/{campaign}/disagreements"): OWNER_PAGE,
    ("GET", "/api/campaigns/{campaign}/report"): (401, 404, 403, 404, 200, 200),
    ("POST", "/campaigns/{campaign}/raters/{rater}/pause"): OWNER,
    ("POST", "/campaigns/{campaign}/raters/{rater}/resume"): OWNER,
    ("POST", "/campaigns/{campaign}/items/{item}/reopen"): OWNER,
    ("GET", "/widget/thumbs.js"): OPEN,
    ("OPTIONS", "/widget/thumbs"): (403,) * 6,  # from no site that a campaign names
    ("POST", "/widget/thumbs"): (422,) * 6,  # without what a token vouches for
}
SHOW_MODELS = {"/campaigns/{campaign}", "/campaigns/{campaign}/disagreements", "/api/campaigns/{campaign}/report"}
"""To those who own the campaign."""


def test_every_route_is_in_the_matrix(everything: World) -> None:
    assert sorted(everything.routes) == sorted(MATRIX)


@pytest.mark.parametrize(("route", "expected"), MATRIX.items(), ids=lambda value: " ".join(map(str, value)))
def test_each_role_gets_what_the_matrix_says_and_no_more(
    everything: World, route: tuple[str, str], expected: tuple[int, ...]
) -> None:
    method, path = route
    place = path.format(**everything.places)
    kind = {"accept": "application/json" if path.startswith("/api/") else "text/html"}
    said = {}
    for role in ROLES:
        more = {}
        if method not in SAFE:
            kind["x-csrf-token"] = everything.token(role)
            more = everything.body(path)
        answer = everything.browsers[role].ask(method, place, headers=kind, **more)
        said[role] = answer.status_code
        assert HEADERS.keys() <= answer.headers.keys()
        assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        shown = f"{answer.text} {answer.headers}"
        if not (role in ("admin", "owner") and path in SHOW_MODELS):
            assert MODEL not in shown, "nobody else learns which model wrote an answer"
        if role in ("nobody", "other rater", "other owner") and "{campaign}" not in path and "whales" not in str(more):
            assert "whales" not in shown, "who is no member does not learn that it is there"
    assert said == dict(zip(ROLES, expected, strict=True))
    assert everything.house.told == [], "nothing went wrong on our side"


def test_a_rater_who_is_no_member_any_more_reads_no_task_but_hands_in_what_was_rated(everything: World) -> None:
    rater = everything.people["rater"]
    everything.house.accounts.set_campaigns(rater, ["other"], by="test")
    browser = everything.house.signed_in(rater)
    json = {"accept": "application/json", "x-csrf-token": everything.house.token(browser)}
    place = f"/api/assignments/{everything.places['assignment']}"
    assert browser.get(place, headers=json).status_code == 404
    assert browser.post("/api/ratings", headers=json, **everything.body("/api/ratings")).status_code == 200


@pytest.mark.parametrize("name", ["whale", "whaless", "%2e%2e", "whales'--"])
def test_another_campaign_and_none_answer_alike(everything: World, name: str) -> None:
    browser = everything.browsers["other rater"]
    known, unknown = browser.get("/rate/whales"), browser.get(f"/rate/{name}")
    assert known.status_code == unknown.status_code == 404
    assert known.text == unknown.text
