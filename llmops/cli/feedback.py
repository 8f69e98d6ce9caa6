"""`llmops feedback`: serve the rating service, let people in, see who is there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmops.cli import feedback_data, feedback_record
from llmops.errors import InputError, nearest

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llmops.feedback.settings import FeedbackService

feedback = typer.Typer(help="People rate answers: serve the page, invite, see who is there.", no_args_is_help=True)

File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Its settings, such as configs/feedback.yaml.")]
Config = Annotated[Path | None, typer.Option("--config", help="The service's settings, as given to `serve`.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
CONSOLE = "console"
"""Who invites from the command line."""


@feedback.command()
def serve(
    file: File = None,
    listen: Annotated[str | None, typer.Option(help="Address and port instead of the file's.")] = None,
) -> None:
    """Serve the rating page until Ctrl-C or SIGTERM; without a FILE, for this machine alone."""
    from llmops.feedback.run import serve as run
    from llmops.workspace import Workspace

    service = _settings(file, listen)
    workspace = Workspace.current()

    def build(port: int) -> FastAPI:
        from llmops.feedback.assembly import assembled
        from llmops.feedback.entrance import address
        from llmops.lifecycle.widget_thumbs import kept_in_ledger

        app = assembled(service, workspace, port=port, say=typer.echo, thumbs=kept_in_ledger)
        typer.echo(f"rating service on {address(service, port)}")
        return app

    run(service, build, say=typer.echo)


@feedback.command("widget-key")
def widget_key(
    campaign: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="A thumbs campaign's name.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print the key with which another site's server makes tokens for the thumbs widget; keep it secret."""
    from llmops.database import open_database
    from llmops.feedback.store import campaign_named
    from llmops.feedback.widget_token import widget_key as key_of
    from llmops.workspace import Workspace

    service = _settings(config, None)
    if service.secret is None:
        raise InputError(
            "the service has no `secret`, of which the widget's keys are made",
            fix="set `secret` in the service's settings and name them with --config",
        )
    found = campaign_named(open_database(Workspace.current()), campaign)
    if found.kind != "thumbs" or not found.widget_origins:
        raise InputError(
            f"the campaign {campaign!r} takes no thumbs from other sites",
            fix="make one with `kind: thumbs` and `widget_origins`",
        )
    key = key_of(service.secret, campaign)
    typer.echo(json.dumps({"campaign": campaign, "key": key}, indent=2) if as_json else key)


@feedback.command()
def invite(
    role: Annotated[str, typer.Option(help="rater, owner or admin.")] = "rater",
    campaign: Annotated[list[str] | None, typer.Option(help="Theirs alone; may be repeated. Without: all.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="They read it, such as en; may be repeated.")] = None,
    qualification: Annotated[list[str] | None, typer.Option(help="They have it; may be repeated.")] = None,
    reset: Annotated[str | None, typer.Option(metavar="LOGIN", help="Set this account's password anew.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a link that lets one person in, or sets one's password anew; it is shown once."""
    from llmops.feedback.assembly import opened
    from llmops.feedback.entrance import link_to
    from llmops.feedback.visitor import EVERY, ROLES
    from llmops.workspace import Workspace

    known = {one: one for one in ROLES}
    if role not in known:
        raise InputError(f"there is no role {role!r}{nearest(role, ROLES)}", fix=f"use one of: {', '.join(ROLES)}")
    service = _settings(config, None)
    accounts, invitations = opened(service, Workspace.current())
    if reset is not None:
        secret = invitations.reset(accounts.called(reset), by=CONSOLE)
    else:
        secret = invitations.make(
            known[role],
            by=CONSOLE,
            campaigns=campaign or (EVERY,),
            languages=language or (),
            qualifications=qualification or (),
        )
    link = link_to(service, service.port, secret)
    if as_json:
        typer.echo(json.dumps({"link": link, "role": role, "hours": service.invitation_hours}, indent=2))
        return
    typer.echo(link)
    typer.echo(f"works once, within {service.invitation_hours:g} hours; only a digest of it is kept")
    typer.echo("next: llmops feedback people")


@feedback.command()
def people(as_json: Json = False) -> None:
    """Show every account: who it is, what they may do, the pseudonym their ratings carry."""
    from llmops.feedback.assembly import opened
    from llmops.feedback.settings import FeedbackService
    from llmops.feedback.visitor import EVERY
    from llmops.workspace import Workspace

    accounts, _ = opened(FeedbackService(), Workspace.current())
    found = accounts.people()
    if as_json:
        rows = [
            {
                "login": one.login,
                "name": one.name,
                "role": one.role,
                "campaigns": sorted(one.campaigns),
                "languages": list(one.languages),
                "qualifications": list(one.qualifications),
                "rater": one.rater,
                "openid": one.vouched,
                "since": one.at,
                "closed": one.ended,
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    head = ("login", "name", "role", "campaigns", "skills", "rater", "since", "state")
    table = [
        (
            one.login,
            one.name,
            one.role,
            "all" if EVERY in one.campaigns or one.role == "admin" else ", ".join(sorted(one.campaigns)) or "none",
            ", ".join((*one.languages, *one.qualifications)) or "–",
            one.rater,
            _day(one.at),
            "open" if one.ended is None else f"closed {_day(one.ended)}",
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in (head, *table)) for column in range(len(head))]
    for row in (head, *table):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo("next: llmops feedback invite --role rater --campaign NAME")


@feedback.command()
def qualify(
    login: Annotated[str, typer.Argument(help="The login of an account.")],
    language: Annotated[list[str] | None, typer.Option(help="They read it, such as en; may be repeated.")] = None,
    qualification: Annotated[list[str] | None, typer.Option(help="They have it; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Say anew which languages somebody reads, or which qualifications they have; '' takes all of them away."""
    from llmops.feedback.assembly import opened
    from llmops.feedback.raters import change_rater
    from llmops.feedback.settings import FeedbackService
    from llmops.workspace import Workspace

    if language is None and qualification is None:
        raise InputError("nothing is to be changed", fix="give --language or --qualification")
    accounts, _ = opened(FeedbackService(), Workspace.current())
    rater = accounts.called(login).rater
    change_rater(
        accounts.engine,
        rater,
        languages=None if language is None else [one for one in language if one],
        qualifications=None if qualification is None else [one for one in qualification if one],
        actor=CONSOLE,
    )
    person = accounts.person(rater)
    if as_json:
        told = {"login": person.login, "languages": person.languages, "qualifications": person.qualifications}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"{person.login} reads {', '.join(person.languages) or 'no language in particular'}")
    typer.echo(f"{person.login} has {', '.join(person.qualifications) or 'no qualification'}")
    typer.echo("next: llmops feedback people")


def _settings(file: Path | None, listen: str | None) -> FeedbackService:
    from llmops.config import load
    from llmops.feedback.settings import FeedbackService

    if file is not None:
        overrides = [f"listen={json.dumps(listen)}"] if listen is not None else []
        return load(file, FeedbackService, what="feedback", overrides=overrides)
    return FeedbackService() if listen is None else _listening(listen)


def _listening(listen: str) -> FeedbackService:
    from pydantic import ValidationError

    from llmops.feedback.settings import FeedbackService

    try:
        return FeedbackService(listen=listen)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise InputError(
            f"the service cannot listen on {listen}: {said}",
            fix="give it a file such as configs/feedback.yaml, or an address of this machine alone",
        ) from error


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def register(app: typer.Typer) -> None:
    feedback_data.add_commands(feedback)
    feedback_record.add_commands(feedback)
    app.add_typer(feedback, name="feedback")
