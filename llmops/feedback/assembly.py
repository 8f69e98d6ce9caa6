"""The rating service put together: database, accounts, desk, pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request

from llmops.database import open_database
from llmops.feedback import pages
from llmops.feedback.access import members_only
from llmops.feedback.accounts import Accounts
from llmops.feedback.app import application, entrance_of
from llmops.feedback.desk import Desk
from llmops.feedback.entrance import link_to, visitor_of
from llmops.feedback.invitations import Invitations
from llmops.feedback.openid import Provider
from llmops.feedback.owner_pages import owner_routes
from llmops.feedback.pages import environment
from llmops.feedback.passwords import Passwords
from llmops.feedback.rating_pages import rating_routes
from llmops.feedback.settings import FeedbackService
from llmops.feedback.store import campaigns, rubrics
from llmops.feedback.visitor import Visitor
from llmops.feedback.widget_pages import ELSEWHERE, Keep, widget_routes
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy import Engine


_THREADS = 40
"""In which requests are answered at once, as many as FastAPI has; each may want a connection."""


def assembled(
    service: FeedbackService,
    workspace: Workspace,
    *,
    port: int,
    say: Callable[[str], None],
    thumbs: Callable[[Engine], Keep] | None = None,
) -> FastAPI:
    """The application over the workspace's database; a link for the first admin is said where there is none.

    Args:
        thumbs: what keeps the widget's thumbs. The widget is there where this and the service's secret are: its tokens
            are made of the secret.
    """
    engine = open_database(workspace, keep=_THREADS)
    entrance = entrance_of(service, Accounts(engine, Passwords()), render=rendered)
    secret = entrance.invitations.first_admin()
    if secret is not None:
        say(f"nobody is an admin yet; this link makes the first one, once, within {service.invitation_hours:g} hours:")
        say(f"  {link_to(service, port, secret)}")
    widget = []
    if thumbs is not None and service.secret is not None:
        widget = [widget_routes(engine, service.secret, thumbs(engine), clock=entrance.accounts.clock)]
    openid = Provider(service.openid) if service.openid is not None else None
    return application(
        entrance,
        port=port,
        openid=openid,
        routers=[*pages_of(engine, entrance.accounts), *widget],
        ready=lambda: _answers(engine),
        tell=say,
        elsewhere=[ELSEWHERE] if widget else [],
    )


def pages_of(engine: Engine, accounts: Accounts) -> list[APIRouter]:
    """All pages that campaigns have, their raters' and their owners'; a route added here fails the test of who may ask
    what until it says who."""
    return [rating_pages_of(engine, accounts), owner_routes(engine, rendered, clock=accounts.clock)]


def rating_pages_of(engine: Engine, accounts: Accounts) -> APIRouter:
    """The rating page over a desk, for the campaigns that each may rate in."""
    desk = Desk(engine, clock=accounts.clock)

    def who(request: Request) -> pages.Visitor | None:
        found = visitor_of(request)
        return None if found is None else pages.Visitor(found.rater, found.name, found.csrf)

    def offered(rater: str) -> list[pages.Offered]:
        person = accounts.person(rater)
        return [
            pages.Offered(
                one.campaign.name,
                one.campaign.kind,
                rubrics(engine, one.campaign.name)[-1].question,
                desk.progress(one.campaign.name, rater),
                owned=person.owns(one.campaign.name),
            )
            for one in campaigns(engine)
            if person.knows(one.campaign.name)
        ]

    guarded = APIRouter(dependencies=[Depends(members_only(engine))])
    guarded.include_router(rating_routes(desk, who, offered))
    return guarded


def opened(service: FeedbackService, workspace: Workspace) -> tuple[Accounts, Invitations]:
    """Accounts and invitations, for commands that need no service."""
    accounts = Accounts(open_database(workspace), Passwords())
    return accounts, Invitations(accounts, hours=service.invitation_hours)


def rendered(template: str, visitor: Visitor | None, **values: Any) -> str:
    """A page of `ui/`."""
    page = environment().get_template(template)
    return page.render(visitor=visitor, mine="", login="", moment=moment, **values)


def moment(at: float) -> str:
    """A time as people read it, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _answers(engine: Engine) -> None:
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
