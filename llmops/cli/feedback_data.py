"""Commands on what people rate and what they said: create, import, list, reword, report, export."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.feedback.campaign_report import CampaignReport
    from llmops.stats import Estimate

Name = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="A campaign's name.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


class For(StrEnum):
    """What the rows are to train."""

    sft = "sft"
    dpo = "dpo"
    kto = "kto"
    reward = "reward"


class Format(StrEnum):
    """How rows are written."""

    jsonl = "jsonl"
    parquet = "parquet"


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this file into the group."""
    app.command()(create)
    app.command("import")(import_items)
    app.command("list")(list_campaigns)
    app.command()(reword)
    app.command()(report)
    app.command()(export)
    app.command("import-thumbs")(import_thumbs)


def create(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="A file of feedback/campaigns/.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make the campaign that a file describes, with its items."""
    from llmops.cli.progress import watching
    from llmops.lifecycle.campaigns import create as run
    from llmops.workspace import Workspace

    with watching() as listener:
        made = run(campaign, workspace=Workspace.current(), listener=listener, dry_run=dry_run)
    if as_json:
        told = {
            "campaign": made.campaign.name, "kind": made.campaign.kind, "items": made.items, "gold": made.gold,
            "clusters": made.clusters, "ratings": made.ratings, "left_out": list(made.left_out),
            "notes": list(made.notes), "created": not dry_run,
        }  # fmt: skip
        typer.echo(json.dumps(told, indent=2))
        return
    for note in made.notes:
        typer.echo(note)
    wanted = made.items * made.campaign.overlap
    gold = f", {made.gold} gold items" if made.gold else ""
    typer.echo(
        f"{made.campaign.name}: {made.items} items of {made.clusters} different prompts{gold}, {wanted} ratings wanted"
    )
    if made.ratings:
        typer.echo(f"{made.ratings} ratings taken over")
    if dry_run:
        typer.echo(f"nothing was written; next: llmops feedback create {campaign}")
    elif made.ratings:
        typer.echo(f"next: llmops feedback report {made.campaign.name}")
    else:
        typer.echo("next: llmops feedback serve")


def import_items(
    campaign: Name,
    source: Annotated[str, typer.Argument(help="A csv, jsonl or parquet file, or an https address of one.")],
    prompt: Annotated[str, typer.Option(help="What was asked; {column} stands for a column's text.")] = "{prompt}",
    response: Annotated[
        list[str] | None, typer.Option(help="An answer, a template over columns; once for each answer.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Who gave the answer, a template; once for each answer, in their order.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="The item's language, a template, such as '{lang}'.")] = None,
    priority: Annotated[str | None, typer.Option(help="A whole number, a template; higher comes first.")] = None,
    as_json: Json = False,
) -> None:
    """Put more items into a campaign."""
    from llmops.cli.progress import watching
    from llmops.data.section import Origin
    from llmops.feedback.campaign import FromRows
    from llmops.lifecycle.campaigns import add
    from llmops.workspace import Workspace

    if not response:
        raise InputError("no answers are named", fix="name them as --response '{first}' --response '{second}'")
    rows = FromRows(
        **{"from": "rows"},
        rows=Origin(source=source),
        prompt=prompt,
        responses=response,
        models=list(model or []) or None,
        language=language,
        priority=priority,
    )
    with watching() as listener:
        made = add(campaign, rows, workspace=Workspace.current(), listener=listener)
    if as_json:
        told = {"campaign": campaign, "items": made.items, "left_out": list(made.left_out), "notes": list(made.notes)}
        typer.echo(json.dumps(told, indent=2))
        return
    for note in made.notes:
        typer.echo(note)
    typer.echo(f"{made.items} items added to {campaign}")
    typer.echo("next: llmops feedback serve")


def list_campaigns(as_json: Json = False) -> None:
    """Show the campaigns and how far they are."""
    from llmops.database import open_database
    from llmops.feedback.making import half_made
    from llmops.feedback.store import campaigns
    from llmops.workspace import Workspace

    engine = open_database(Workspace.current())
    known, unfinished = campaigns(engine), half_made(engine)
    if as_json:
        lines = [
            {"campaign": one.campaign.name, "kind": one.campaign.kind, "items": one.items, "gold": one.gold,
             "wanted": one.wanted, "done": one.done, "raters": one.raters, "created": one.at,
             "half_made": one.campaign.name in unfinished}
            for one in known
        ]  # fmt: skip
        typer.echo(json.dumps(lines, indent=2))
        return
    if not known:
        typer.echo("there are no campaigns")
        typer.echo("next: llmops feedback create feedback/campaigns/quickstart.yaml")
        return
    rows = [
        [one.campaign.name, one.campaign.kind, f"{one.items - one.gold:,}", f"{one.done:,}", f"{one.wanted:,}",
         f"{one.done / one.wanted:.0%}" if one.wanted else "", str(one.raters)]
        for one in known
    ]  # fmt: skip
    _table(["campaign", "kind", "items", "ratings", "wanted", "done", "raters"], rows)
    for name in unfinished:
        typer.echo(f"{name} is being made, or was left half-made: `llmops feedback create` of its file completes it")
    typer.echo(f"next: llmops feedback report {known[0].campaign.name}")


def reword(
    campaign: Name,
    rubric: Annotated[Path, typer.Argument(metavar="RUBRIC", help="A file of feedback/rubrics/, its version raised.")],
    as_who: Annotated[str, typer.Option("--as", help="Who changes it; stands in the record.")] = "console",
    as_json: Json = False,
) -> None:
    """Ask by other words from now on; what was said so far stays said of the old ones."""
    from llmops.database import open_database
    from llmops.feedback.store import reword as run
    from llmops.feedback.store import rubrics
    from llmops.rubric import load_rubric
    from llmops.workspace import Workspace

    engine = open_database(Workspace.current())
    changed = run(engine, campaign, load_rubric(rubric), actor=as_who)
    known = rubrics(engine, campaign)
    if as_json:
        typer.echo(json.dumps({"changed": changed, "versions": [one.identity for one in known]}, indent=2))
        return
    now = f"{known[-1].name} version {known[-1].version}"
    typer.echo(f"{campaign} asks by {now} from now on" if changed else f"{campaign} asks by {now} already")
    if changed:
        typer.echo("ratings that are on their way answer the old words; their raters see both and decide")
    typer.echo(f"next: llmops feedback report {campaign}")


def import_thumbs(campaign: Name, as_json: Json = False) -> None:
    """Take over thumbs from /v1/feedback and the widget as ratings; again, it takes what has come since."""
    from llmops.database import open_database
    from llmops.lifecycle.thumbs_import import import_thumbs as run
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    taken = run(open_database(workspace), campaign, workspace=workspace)
    if as_json:
        typer.echo(json.dumps({"items": taken.items, "ratings": taken.ratings}))
        return
    typer.echo(f"{taken.ratings:,} new ratings; {taken.items:,} answers were not in the campaign before")
    typer.echo(f"next: llmops feedback report {campaign}")


def report(
    campaign: Name,
    sheet: Annotated[Path | None, typer.Option(help="Also every rating as a csv, for a spreadsheet.")] = None,
    as_json: Json = False,
) -> None:
    """Show how far raters agree, what each is like, and which model is better."""
    from llmops.database import open_database
    from llmops.feedback.campaign_report import report_on
    from llmops.feedback.export import usual_purpose
    from llmops.feedback.ratings import rated
    from llmops.feedback.report_json import to_json
    from llmops.feedback.sheet import write_sheet
    from llmops.workspace import Workspace

    engine = open_database(Workspace.current())
    found = report_on(engine, campaign)
    written = None if sheet is None else write_sheet(sheet, rated(engine, campaign))
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=2))
        return
    _print_report(found)
    if written is not None:
        typer.echo(f"{written:,} ratings → {sheet}")
    typer.echo(f"next: llmops feedback export {campaign} --for {usual_purpose(found.kind)}")


def _print_report(found: CampaignReport) -> None:
    typer.echo(
        f"{found.campaign}: {found.complete:,} of {found.items:,} items complete, {found.ratings:,} of "
        f"{found.wanted:,} ratings; {found.skipped} skipped, {found.flagged} flagged, {found.surplus} surplus"
    )
    if found.not_text:
        typer.echo(f"{found.not_text} responses are no texts; no row is made of them")
    if not found.ratings:
        return
    rows = [
        [name, f"{one.items:,}", _shown(one.share, 2), _shown(one.fleiss), _shown(one.alpha), one.level]
        for name, one in found.agreement.items()
        if one is not None
    ]
    if rows:
        typer.echo("")
        _table(["agreement on", "items", "alike", "Fleiss' kappa", "alpha", "level"], rows)
    else:
        typer.echo("no item has two ratings yet, so nothing shows how far raters agree")
    if found.pairs:
        typer.echo("")
        _table(
            ["rater", "and", "items", "Cohen's kappa"],
            [[one.one, one.other, f"{one.items:,}", f"{one.kappa:.3f}"] for one in found.pairs],
        )
    typer.echo("")
    columns = {
        "ratings": [f"{one.ratings:,}" for one in found.raters],
        "median s": ["" if one.seconds is None else f"{one.seconds:.1f}" for one in found.raters],
        "as most others": [_shown(one.agreement, 2) for one in found.raters],
        "gold right": [_shown(one.gold, 2) for one in found.raters],
        "same again": [_shown(one.consistency, 2) for one in found.raters],
        "first shown": [_shown(one.shown_first, 2) for one in found.raters],
        "longer": [_shown(one.longer, 2) for one in found.raters],
    }
    measured = {heading: cells for heading, cells in columns.items() if any(cells)}
    names = [str(one.rater) for one in found.raters]
    _table(["rater", *measured], [list(row) for row in zip(names, *measured.values(), strict=True)])
    if found.longer is not None:
        typer.echo(f"the longer of two answers was preferred in {_shown(found.longer)} of preferences (half: no bias)")
    if found.ranking is not None:
        _print_ranking(found)


def _print_ranking(found: CampaignReport) -> None:
    assert found.ranking is not None
    typer.echo("")
    _table(
        ["model", "rank", "left open", "strength", "won", "alike", "lost"],
        [
            [str(one.model), str(one.rank), "–".join(map(str, dict.fromkeys(one.ranks))), _shown(one.strength, 2),
             str(one.wins), str(one.ties), str(one.losses)]
            for one in found.ranking.standings
        ],
    )  # fmt: skip
    typer.echo("by how much neighbours differ (log-odds), with intervals that hold all at once:")
    for gap in found.ranking.gaps:
        ahead = _shown(gap.difference, 2, confidence=found.ranking.pair_confidence)
        if gap.decided:
            typer.echo(f"{gap.better} is better than {gap.worse}: {ahead}")
        else:
            more = "no number of ratings is known to decide it"
            if gap.more_ratings is not None:
                more = f"about {gap.more_ratings:,} more ratings of {gap.more_clusters:,} more prompts would decide it"
            typer.echo(f"{gap.better} or {gap.worse} is open: {ahead}; {more}")


def export(
    campaign: Name,
    purpose: Annotated[For, typer.Option("--for", help="What the rows are to train.")],
    out: Annotated[
        Path | None, typer.Option(help="A folder; exports/CAMPAIGN-FOR in the workspace by default.")
    ] = None,
    file_format: Annotated[Format, typer.Option("--format", help="How rows are written.")] = Format.jsonl,
    validation: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of prompts held out, near duplicates together.")
    ] = 0.05,
    sure: Annotated[float, typer.Option(min=0, max=1, help="How sure the raters together must be, 0 to 1.")] = 0.5,
    personal_data: Annotated[
        bool, typer.Option("--keep-personal-data", help="Also rows in which e-mail addresses and the like are found.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write what people said as rows to train on."""
    from llmops.lifecycle.exports import export as run
    from llmops.workspace import Workspace

    workspace = Workspace.current()
    folder = out or _shorter(workspace.folder("exports") / f"{campaign}-{purpose.value}")
    about = run(
        campaign,
        purpose.value,
        folder,
        workspace=workspace,
        file_format=file_format.value,
        validation=validation,
        sure=sure,
        personal_data=personal_data,
    )
    if as_json:
        typer.echo(json.dumps(about, indent=2))
        return
    for split, number in about["rows"].items():
        typer.echo(f"{number:,} rows → {folder / f'{split}.{file_format.value}'}")
    _print_excluded(about, folder)
    recipe = {"dpo": "dpo-from-feedback", "reward": "reward-from-feedback", "kto": "kto-thumbs"}.get(purpose.value)
    if recipe is not None:
        typer.echo(f"next: FEEDBACK={folder} llmops finetune recipes/{recipe}.yaml")


def _shorter(path: Path) -> Path:
    """As seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _print_excluded(about: dict[str, Any], folder: Path) -> None:
    excluded = about["ratings_excluded"]
    if excluded:
        typer.echo(f"{sum(excluded.values()):,} ratings make no row → {folder / 'excluded.jsonl'}")
        _table(["ratings", "why"], [[f"{number:,}", reason] for reason, number in list(excluded.items())[:10]])
    bias = about["length_bias"]
    if bias is not None:
        typer.echo(
            f"the longer answer is the chosen one in {bias['longer_chosen']:.1%} of {bias['pairs']:,} pairs "
            f"({bias['low']:.1%} to {bias['high']:.1%}); half is no bias"
        )


def _shown(estimate: Estimate | None, decimals: int = 3, *, confidence: float = 0.95) -> str:
    """A number with its interval; empty where nothing could be measured."""
    if estimate is None or estimate.value != estimate.value:
        return ""
    low, high = estimate.interval(confidence)
    return f"{estimate.value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _table(headings: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        number = place > 0 and all(not row[place] or row[place][0] in "-−+0123456789" for row in rows)
        shown.add_column(heading, justify="right" if number else "left", no_wrap=place == 0, overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    Console().print(shown)
