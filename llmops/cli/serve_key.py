"""Commands on the keys of a gateway: create, list, revoke."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError, nearest

if TYPE_CHECKING:
    from llmops.serve.keys import Key
    from llmops.serve.settings import Gateway

key = typer.Typer(help="Keys that clients of a gateway need.", no_args_is_help=True)

File = Annotated[Path, typer.Option("--gateway", help="The gateway's file, which names the file of keys.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
_FILE = Path("configs/gateway.yaml")


@key.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, in your words.")],
    routes: Annotated[str | None, typer.Option(help="Routes it may ask, with commas; by default all.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests in any 60 seconds.", min=1)] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens in any 60 seconds, prompts and answers.", min=1)] = None,
    budget_usd: Annotated[float | None, typer.Option(help="US dollars in a calendar month (UTC).")] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends, such as 2027-01-01 (UTC).")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="For the ledger, such as team=x; may be repeated.")] = None,
    gateway: File = _FILE,
    as_json: Json = False,
) -> None:
    """Make a key and show its secret once; only a digest of it is kept."""
    from llmops.serve import keys

    settings, file = _opened(gateway)
    made, secret = keys.create(
        file,
        name,
        now=keys.utc(time.time()),
        routes=None if routes is None else _routes(routes, settings),
        rpm=rpm,
        tpm=tpm,
        budget_usd=budget_usd,
        expires=None if expires is None else _time(expires),
        tags=dict(_tag(one) for one in tag or ()),
    )
    if as_json:
        typer.echo(json.dumps({**_plain(made), "secret": secret}, indent=2))
        return
    typer.echo(secret)
    typer.echo(f"key {made.id} of {made.name}: {_limits(made)}; kept as a digest in {file}, so this is shown once")
    model = made.routes[0] if made.routes else next(iter(settings.routes))
    typer.echo(
        f"next: curl http://{settings.listen}/v1/chat/completions -H 'Authorization: Bearer {secret[:14]}…' "
        f"-H 'Content-Type: application/json' "
        f'-d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}\''
    )


@key.command("list")
def list_keys(gateway: File = _FILE, as_json: Json = False) -> None:
    """Show every key: whose it is, what it may, and whether it is valid."""
    from llmops.serve import keys

    _, file = _opened(gateway)
    found = keys.read(file)
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in found], indent=2))
        return
    now = keys.utc(time.time())
    rows = [
        (
            one.id,
            one.name,
            one.ended(now) or "valid",
            f"{one.created:%Y-%m-%d}",
            f"{one.expires:%Y-%m-%d %H:%M}" if one.expires else "-",
            _limits(one),
            ", ".join(f"{name}={value}" for name, value in one.tags.items()) or "-",
        )
        for one in found
    ]
    head = ("key", "name", "state", "made", "ends (UTC)", "may", "tags")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    typer.echo("next: llmops serve ledger --by key")


@key.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="KEY", help="A key's id or name.")],
    gateway: File = _FILE,
    as_json: Json = False,
) -> None:
    """End a key; a running gateway refuses it within a second."""
    from llmops.serve import keys

    _, file = _opened(gateway)
    ended = keys.revoke(file, which, now=keys.utc(time.time()))
    if as_json:
        typer.echo(json.dumps(_plain(ended), indent=2))
        return
    typer.echo(f"key {ended.id} of {ended.name} is revoked")
    typer.echo("next: llmops serve key list")


def _opened(gateway: Path) -> tuple[Gateway, Path]:
    """The gateway's settings, and where its keys are."""
    from llmops.config import load
    from llmops.serve.settings import Gateway

    settings = load(gateway, Gateway, what="gateway")
    if settings.keys is None:
        raise InputError(f"{gateway} names no file of keys", fix="add `keys: {file: keys.json}` to it")
    return settings, gateway.parent / settings.keys.file


def _routes(names: str, settings: Gateway) -> list[str]:
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in settings.routes:
            raise InputError(
                f"there is no route {name!r}{nearest(name, settings.routes)}",
                fix=f"name some of: {', '.join(settings.routes)}",
            )
    if not found:
        raise InputError("--routes names none", fix="leave it out to allow all, or name some")
    return found


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no time", fix="write it as 2027-01-01 or 2027-01-01T12:00+01:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _tag(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise InputError(f"{text!r} is no tag", fix="write it as --tag team=x")
    return name.strip(), value.strip()


def _limits(one: Key) -> str:
    said = [
        ", ".join(one.routes) if one.routes is not None else "all routes",
        f"{one.rpm} requests/min" if one.rpm else "",
        f"{one.tpm} tokens/min" if one.tpm else "",
        f"{one.budget_usd:g} USD/month" if one.budget_usd else "",
    ]
    return "; ".join(filter(None, said))


def _plain(one: Key) -> dict[str, Any]:
    return one.model_dump(mode="json", exclude={"sha256"})


def register(serve: typer.Typer) -> None:
    serve.add_typer(key, name="key")
