"""Commands on the record of who rated and what was done: erase-rater, verify."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from llmops.cli.feedback_data import Json


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into the group."""
    app.command("erase-rater")(erase_rater)
    app.command()(verify)


def erase_rater(
    rater: Annotated[str, typer.Argument(help="The pseudonym, or the login of an account.")],
    drop_ratings: Annotated[
        bool, typer.Option("--drop-ratings", help="Their ratings are read no more either, and others are asked again.")
    ] = False,
    as_who: Annotated[str, typer.Option("--as", help="Who erases; stands in the record.")] = "service",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Forget the person behind a pseudonym; say which datasets and models were made with their ratings."""
    from llmops.lifecycle.erasure import erase
    from llmops.workspace import Workspace

    if not yes:
        typer.confirm(f"Forget who {rater} is, for good?", abort=True)
    done = erase(rater, drop=drop_ratings, actor=as_who, workspace=Workspace.current())
    if as_json:
        typer.echo(
            json.dumps(
                {"rater": done.rater, "ratings": done.ratings, "dropped": drop_ratings, "exports": list(done.exports),
                 "models": list(done.models)},
                indent=2,
            )
        )  # fmt: skip
        return
    kept = "are read no more" if drop_ratings else "stay, under a name that says nothing"
    typer.echo(f"{done.rater} is forgotten; {done.ratings} ratings {kept}")
    for folder in done.exports:
        typer.echo(f"marked: {folder} was exported with their ratings")
    for model in done.models:
        typer.echo(f"marked: {model} was trained on them")
    if done.exports and drop_ratings:
        typer.echo("next: export again, and train again what must not hold them")


def verify(
    contains: Annotated[
        str | None, typer.Option(metavar="HEAD", help="The head that an earlier look told; it must be in the chain.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that nothing in the record of what was done around ratings was changed, removed or slipped in."""
    from llmops.database import open_database
    from llmops.feedback.audit import verify as run
    from llmops.workspace import Workspace

    found = run(open_database(Workspace.current()), contains=contains)
    if as_json:
        typer.echo(json.dumps({"events": found.events, "head": found.head}, indent=2))
        return
    typer.echo(f"{found.events} events, each as it was written")
    if found.head:
        typer.echo(f"head: {found.head}")
        typer.echo(f"next: keep the head elsewhere; later: llmops feedback verify --contains {found.head}")
