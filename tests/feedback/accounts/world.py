"""A service with everything in it: two campaigns, people of every role in each, tasks, a rating, an invitation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from sqlalchemy import Engine

from llmops.feedback.assembly import pages_of
from llmops.feedback.campaign import Campaign
from llmops.feedback.desk import Desk
from llmops.feedback.items import NewItem, Response
from llmops.feedback.openid import Provider
from llmops.feedback.ratings import items
from llmops.feedback.settings import FeedbackService, OpenId
from llmops.feedback.store import add_items, create_campaign
from llmops.feedback.tasks import Task
from llmops.feedback.verdicts import Given
from llmops.feedback.widget_pages import ELSEWHERE, widget_routes
from llmops.public_web import Answer
from llmops.rubric import load_rubric
from tests.feedback.accounts.service import Browser, Service, service

RUBRIC = load_rubric(Path(__file__).parents[3] / "feedback/rubrics/helpfulness.yaml")
MODEL = "models:/the-hidden-one"
ISSUER = "http://127.0.0.1:9"
RATING = "00000000-0000-4000-8000-{:012d}"
ROLES = ("nobody", "other rater", "rater", "other owner", "admin", "owner")


async def provider_says(url: str, **_: Any) -> Answer:
    """What an OpenID provider says of itself, and nothing else of it."""
    about = {"issuer": ISSUER} | {
        name: f"{ISSUER}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
    }
    return Answer(url, 200, {}, json.dumps(about).encode())


@dataclass
class World:
    """All of it.

    Attributes:
        browsers: by role; nobody's has no session.
        places: what stands in paths between braces.
    """

    house: Service
    people: Mapping[str, str]
    browsers: Mapping[str, Browser]
    places: Mapping[str, str]

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Method and path of everything the application answers; a kind of route that is not known here fails."""
        found = []
        for route in self.house.app.routes:
            assert isinstance(route, APIRoute), f"{route} is none whose access is checked here"
            found += [(method, route.path) for method in sorted(route.methods)]
        return found

    def token(self, role: str) -> str:
        """What a change must carry from this role's browser."""
        browser = self.browsers[role]
        if role == "nobody":
            browser.get("/login")
            return self.house.entrance.cookies.token_of(browser.cookies[self.house.entrance.cookies.form])
        return self.house.token(browser)

    def body(self, path: str) -> dict[str, Any]:
        """What a page of ours would send there, so that what refuses it is not the content."""
        if path == "/api/ratings":
            verdict = {"kind": "pairwise", "step": 1}
            given = {
                "id": RATING.format(2), "assignment": self.places["assignment"], "rubric": RUBRIC.digest,
                "verdict": verdict,
            }  # fmt: skip
            return {"json": given}
        if path.startswith("/api/"):
            return {"json": {}}
        return {
            "form": {
                "role": "rater",
                "campaigns": "whales",
                "password": "x",
                "again": "y",
                "login": "w",
                "more": "1",
                "page": "1",
            }
        }


def populated(engine: Engine) -> dict[str, str]:
    """Fill an empty database; what stands in paths between braces, and people's pseudonyms by role."""
    house = _house(engine)
    owner = house.person("owner", "whales", login="owner")
    people = {
        "owner": owner,
        "rater": house.person("rater", "whales", login="rater"),
        "other rater": house.person("rater", "other", login="other-rater"),
        "other owner": house.person("owner", "other", login="other-owner"),
        "admin": house.person("admin", login="admin"),
        "spare": house.person("rater", "whales", login="spare"),
    }
    for name in ("whales", "other"):
        settings = {"name": name, "kind": "pairwise", "rubric": "r", "items": {"from": "ledger"}, "overlap": 3}
        create_campaign(engine, Campaign.model_validate(settings), RUBRIC)
        add_items(engine, name, [_item(number) for number in range(5)])
    desk = Desk(engine, clock=house.clock)
    first = desk.next("whales", people["rater"])
    assert isinstance(first, Task)
    verdict = {"kind": "pairwise", "step": 1}
    given = {"id": RATING.format(1), "assignment": first.assignment, "rubric": RUBRIC.digest, "verdict": verdict}
    desk.submit(Given.model_validate(given), people["rater"])
    second = desk.next("whales", people["rater"])
    assert isinstance(second, Task)
    desk.next("whales", people["spare"])
    made = house.entrance.invitations.make("rater", by="test")
    house.entrance.invitations.make("rater", by=owner, campaigns=("whales",))
    (of_owner,) = house.entrance.invitations.open(by=owner)
    places = {
        "campaign": "whales",
        "assignment": second.assignment,
        "rater": people["spare"],
        "which": of_owner.digest,
        "secret": made,
        "item": next(items(engine, "whales")).id,
    }
    return {**places, **{f"person {role}": rater for role, rater in people.items()}}


def world(engine: Engine, known: Mapping[str, str]) -> World:
    """The service over a database that `populated` filled."""
    house = _house(engine)
    people = {role: known[f"person {role}"] for role in ROLES if role != "nobody"}
    browsers = {"nobody": house.browser()} | {role: house.signed_in(rater) for role, rater in people.items()}
    return World(house, people, browsers, known)


def _house(engine: Engine) -> Service:
    openid = OpenId(issuer=ISSUER, client_id="c", client_secret="s")
    house = service(
        engine,
        FeedbackService(openid=openid),
        openid=Provider(openid, fetch=provider_says),
        routers=lambda accounts: [
            *pages_of(engine, accounts),
            widget_routes(engine, "s" * 32, lambda thumb: None, clock=accounts.clock),
        ],
        elsewhere=[ELSEWHERE],
    )
    return house


def _item(number: int) -> NewItem:
    return NewItem(
        prompt=[{"role": "user", "content": f"question {number}"}],
        responses=[Response(text, f"{MODEL}-{place}") for place, text in enumerate(("one", "two"))],
        prompt_digest=f"prompt {number}",
        cluster=f"cluster {number}",
        source={"line": number},
    )
