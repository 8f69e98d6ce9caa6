"""Commands that walk lineage: from a version back and forth, and from a row to every model that saw it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.cli.decide import Json, Reference, version_of
from llmops.errors import InputError
from llmops.registry.decisions import sentence

if TYPE_CHECKING:
    from llmops.data.membership import Wanted
    from llmops.lifecycle.lineage import Saw
    from llmops.lifecycle.version_diff import VersionDiff
    from llmops.registry.lineage import Descendant

_SHOWN_PLACES = 20


def lineage(model: Reference, as_json: Json = False) -> None:
    """Show what a version was made of, back to its first base, and what was made of it."""
    from llmops.lifecycle.lineage import lineage_of, plain

    workspace, version = version_of(model)
    found = lineage_of(version, workspace=workspace)
    record = plain(found)
    if as_json:
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for line in tree(record, [sentence(link) for link in found.decisions]):
        typer.echo(line)
    typer.echo(f"next: llmops models card {version.name}/{version.version}")


def diff(a: Reference, b: Reference, as_json: Json = False) -> None:
    """Say in what two versions differ: recipe, rows, base, environment and scores."""
    from llmops.lifecycle.version_diff import version_diff
    from llmops.registry.connection import without_credentials

    workspace, first = version_of(a)
    _, second = version_of(b)
    found = version_diff(first, second, workspace=workspace)
    record = json.loads(without_credentials(json.dumps(_plain_diff(found))))
    if as_json:
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for line in _differences(record):
        typer.echo(line)
    typer.echo(f"next: llmops compare {first.reference} {second.reference} SUITE, for the paired difference")


def who_saw(
    row: Annotated[str | None, typer.Argument(help="A row's id; its first 6 digits or more.")] = None,
    text: Annotated[str | None, typer.Option(help="Rows in which these words stand, letter by letter.")] = None,
    rows: Annotated[Path | None, typer.Option(help="A jsonl file of rows.")] = None,
    as_json: Json = False,
) -> None:
    """Name every dataset version, run and model version that saw a row, and what was made from those."""
    from llmops.lifecycle.lineage import who_saw as find
    from llmops.workspace import Workspace

    saw = find(_wanted(row, text, rows), workspace=Workspace.current())
    if as_json:
        typer.echo(json.dumps(_plain(saw), indent=2, ensure_ascii=False))
        return
    for line in _story(saw):
        typer.echo(line)
    if saw.models:
        typer.echo(f"next: llmops models lineage {saw.models[-1].name}/{saw.models[-1].version}")
    else:
        typer.echo("next: llmops models list")


def _wanted(row: str | None, text: str | None, rows: Path | None) -> Wanted:
    from llmops.data.membership import ids_in, with_id, with_ids, with_text

    if sum(one is not None for one in (row, text, rows)) != 1:
        raise InputError("one way to name the row is needed", fix="give a row id, or --text WORDS, or --rows FILE")
    if rows is not None:
        return with_ids(ids_in(rows))
    return with_text(text) if text is not None else with_id(str(row))


def _plain(saw: Saw) -> dict[str, Any]:
    from dataclasses import asdict

    from llmops.lifecycle.lineage import plain_descendant

    return {
        "places": [asdict(one) for one in saw.places],
        "runs": [asdict(one) for one in saw.runs],
        "models": [one.reference for one in saw.models],
        "made": [plain_descendant(one) for one in saw.made],
        "derived": [{"folder": str(one.folder), "relation": one.relation} for one in saw.derived],
        "deleted_datasets": list(saw.deleted),
        "searched_datasets": saw.searched,
    }


def _story(saw: Saw) -> Iterator[str]:
    ids = {place.id for place in saw.places}
    versions = sorted({place.version for place in saw.places})
    if not ids:
        yield f"no such row in {saw.searched} dataset versions"
    else:
        yield f"{len(ids)} row(s) in {len(versions)} of {saw.searched} dataset versions"
    for place in saw.places[:_SHOWN_PLACES]:
        yield f"  dataset {place.version}  {place.split:<10}  {place.id[:16]}  {place.source}:{place.line}"
    if len(saw.places) > _SHOWN_PLACES:
        yield f"  and {len(saw.places) - _SHOWN_PLACES} more places (--json names all)"
    validated = {place.version for place in saw.places} - {
        place.version for place in saw.places if place.split == "train"
    }
    for run in saw.runs:
        how = "chose its weights by it" if (run.dataset or "")[:16] in validated else "trained on it"
        yield f"  run {run.name} {run.digest[:12]}  {how}{'' if run.finished else ', not finished'}  {run.folder or ''}"
    for model in saw.models:
        yield f"  model {model.reference}" + (f"  ({', '.join(model.aliases)})" if model.aliases else "")
    yield from _branches(saw.made, "    ")
    for folder in saw.derived:
        yield f"    {folder.relation}: {folder.folder}"
    for digest in saw.deleted:
        yield f"  dataset {digest[:16]} was deleted: whether it held the row is not known"


def _plain_diff(found: VersionDiff) -> dict[str, Any]:
    from dataclasses import asdict

    parts = ("recipe", "data", "base", "environment", "scores")
    return {
        "first": found.first.reference,
        "second": found.second.reference,
        **{part: [asdict(one) for one in getattr(found, part)] for part in parts},
        "rows": asdict(found.rows) if found.rows else None,
        "rows_gone": list(found.rows_gone),
        "unrecorded": list(found.unrecorded),
    }


def _differences(record: dict[str, Any]) -> Iterator[str]:
    yield f"{record['first']} → {record['second']}"
    for reference in record["unrecorded"]:
        yield f"  {reference}: the manifest of its run is gone, so its recipe cannot be compared"
    for part in ("recipe", "data", "base", "environment"):
        for one in record[part]:
            yield f"  {part:<12} {one['key']}: {_value(one['first'])} → {_value(one['second'])}"
    if rows := record["rows"]:
        counts = ", ".join(f"{rows[key]} {key}" for key in ("added", "removed", "moved", "unchanged"))
        yield f"  rows         {counts}"
        for key in ("added", "removed"):
            yield from (f"               {key}: {named}" for named in rows[f"{key}_rows"])
    for digest in record["rows_gone"]:
        yield f"  rows         dataset {_short(digest)} was deleted: which rows differ is not known"
    for one in record["scores"]:
        note = "  (other items: no comparison)" if one["same_items"] is False else ""
        yield f"  score        {one['suite']}.{one['metric']}: {_score(one['first'])} → {_score(one['second'])}{note}"
    if not any(record[part] for part in ("recipe", "data", "base", "environment")) and not record["unrecorded"]:
        yield "  nothing differs in what they were made of"


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return "not measured"
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:.4g} [interval not known]"
    return f"{score['value']:.4g} [{score['low']:.4g}, {score['high']:.4g}]"


def _value(value: Any) -> str:
    text = "none" if value is None else str(value)
    return _short(text) if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def tree(record: dict[str, Any], decisions: Sequence[str]) -> Iterator[str]:
    """A lineage for people: upwards first, then what was said of the version and made of it."""
    for depth, one in enumerate([record, *record["ancestors"]]):
        indent = "    " * depth
        aliases = f" ({', '.join(one['aliases'])})" if one["aliases"] else ""
        yield f"{indent}{one['reference']}{aliases}  {one['kind'] or ''}  {_short(one['digest'])}"
        for key, value in _facts(one):
            yield f"{indent}  {key:<12} {value}"
        if one["base"]["version"] and depth == len(record["ancestors"]):
            yield f"{indent}  the line ends here: {one['base']['version']} is named above"
    if record["tokenizer"]:
        yield f"  tokenizer    {_short(record['tokenizer'])}"
    for one in record["verdicts"]:
        against = f" against {one['against']}" if one["against"] else ""
        yield f"  verdict      {one['result']} by {one['gate']}{against} ({_short(one['digest'])})"
    for said in decisions:
        yield f"  decision     {said}"
    if record["made"] or record["derived"]:
        yield "  made of it"
    yield from _plain_branches(record["made"], "    ")
    for one in record["derived"]:
        yield f"    {one['relation']}: {one['folder']}"


def _facts(one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    run, data, base = one["run"], one["data"], one["base"]
    if run["digest"]:
        yield "run", _short(run["digest"]) + (f"  MLflow {run['mlflow']}" if run["mlflow"] else "")
    if run["folder"]:
        yield "folder", run["folder"] + ("" if run["folder_is_there"] else "  (not here any more)")
    if not run["recorded"]:
        yield "record", "the manifest of its run is gone; what follows is from the registry's tags"
    if one["recipe"]:
        recipe = one["recipe"]
        yield (
            "recipe",
            ", ".join(f"{key} {(recipe.get(key) or {}).get('kind', '-')}" for key in ("method", "adapter"))
            + f", seed {recipe.get('seed')}, {recipe.get('precision')}",
        )
    if data["digest"]:
        rows = ", ".join(f"{count} {name}" for name, count in (data["rows"] or {}).items())
        yield "data", f"{_short(data['digest'])}  " + (rows or "deleted: its rows are gone")
        for source in data["sources"]:
            yield "", f"{source['source']}  {_short(source['digest'])}  {source['rows']} rows read"
        if data["validation"]:
            share = data["validation"]
            yield "", f"validation: {f'{share:g} of the prompts' if isinstance(share, float) else 'sources of its own'}"
    for key in ("template", "tokens"):
        if one[key]:
            yield key, _short(one[key])
    if one["environment"]:
        yield "environment", ", ".join(f"{name} {version}" for name, version in one["environment"].items())
    if one["world"]:
        yield "processes", f"{one['world']}, {one['threads']} threads each"
    if one["code_version"]:
        yield "code", f"llmops {one['code_version']}"
    if one["licences"] is not None:
        yield "licences", ", ".join(dict.fromkeys(each["licence"] or "unknown" for each in one["licences"]))
    if base["reference"]:
        revision = f" at {base['revision']}" if base["revision"] else ""
        yield "base", f"{base['reference']}{revision}  {_short(base['digest'])}"


def _branches(made: Sequence[Descendant], indent: str) -> Iterator[str]:
    from llmops.lifecycle.lineage import plain_descendant

    yield from _plain_branches([plain_descendant(one) for one in made], indent)


def _plain_branches(made: Sequence[dict[str, Any]], indent: str) -> Iterator[str]:
    for one in made:
        yield f"{indent}{one['relation']}: {one['reference']}"
        yield from _plain_branches(one["made"], indent + "  ")


def _short(digest: str | None) -> str:
    return (digest or "")[:12]


def register(models: typer.Typer) -> None:
    models.command()(lineage)
    models.command()(diff)


def register_data(data: typer.Typer) -> None:
    data.command("who-saw")(who_saw)
