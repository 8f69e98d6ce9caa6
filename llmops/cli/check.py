"""Commands that only read what the user wrote: explain."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmops.errors import InputError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel


KINDS = ("recipe", "suite", "gate", "gateway", "rubric", "prices", "campaign", "feedback")


def _model(kind: str) -> type[BaseModel]:
    """The model behind a kind of file, imported when asked for."""
    if kind == "recipe":
        from llmops.finetune.recipe import Recipe

        return Recipe
    if kind == "suite":
        from llmops.eval.suite import Suite

        return Suite
    if kind == "gate":
        from llmops.eval.gates import Gate

        return Gate
    if kind == "gateway":
        from llmops.serve.settings import Gateway

        return Gateway
    if kind == "rubric":
        from llmops.rubric import Rubric

        return Rubric
    if kind == "prices":
        from llmops.finetune.prices import Prices

        return Prices
    if kind == "campaign":
        from llmops.feedback.campaign import Campaign

        return Campaign
    if kind == "feedback":
        from llmops.feedback.settings import FeedbackService

        return FeedbackService
    raise InputError(
        f"there is no kind of file called {kind!r}{nearest(kind, KINDS)}", fix=f"use one of: {', '.join(KINDS)}"
    )


def explain(
    kind: Annotated[
        str, typer.Argument(help="A kind of file: recipe, suite, gate, gateway, rubric, prices, campaign or feedback.")
    ],
    key: Annotated[str | None, typer.Argument(help="Only this key and those below it, as in `batch.packing`.")] = None,
    json_schema: Annotated[bool, typer.Option("--json-schema", help="The JSON schema, for editors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The keys as JSON.")] = False,
) -> None:
    """Say what every key of a file means, its type and its default."""
    from dataclasses import asdict

    from llmops.explain import explain as keys_of

    model = _model(kind)
    if json_schema:
        typer.echo(json.dumps(model.model_json_schema(by_alias=True), indent=2))
        return
    keys = keys_of(model, key)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in keys], indent=2))
        return
    for one in keys:
        default = "required" if one.default is None else f"default {one.default}"
        typer.echo(f"{one.path}: {one.type}  ({default})")
        if one.meaning:
            typer.echo(f"    {one.meaning}")


def register(app: typer.Typer) -> None:
    app.command()(explain)
