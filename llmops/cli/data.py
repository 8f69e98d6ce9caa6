"""Commands about dataset versions: check what a recipe would train on, show a version, compare two."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.cli import lineage
from llmops.errors import InputError

if TYPE_CHECKING:
    from llmops.records import DatasetVersion, Row

app = typer.Typer(
    name="data",
    help="Dataset versions: check, show, diff, who-saw.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Version = Annotated[str, typer.Argument(help="A digest (its first characters are enough) or a version's folder.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe, a .yaml file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe's own.")] = None,
    as_json: _Json = False,
) -> None:
    """Run the data checks of a recipe alone, and leave the dataset version."""
    from llmops.config import load
    from llmops.data.sources import check_columns
    from llmops.data.versions import prepare
    from llmops.finetune.recipe import Recipe
    from llmops.workspace import Workspace

    wanted = load(recipe, Recipe, what="recipe", overrides=overrides or ())
    section = wanted.data
    check_columns(section)
    apart: Mapping[str, Sequence[str]] = {}
    if section.checks.contamination:
        from llmops.lifecycle.prepare import held_out

        apart = held_out(section)
    workspace = Workspace.current()
    with _Progress() as progress:
        version = prepare(
            section,
            objects=workspace.objects,
            cache=workspace.cache,
            held_out=apart,
            on_progress=progress.update,
            prompts=wanted.only_prompts,
        )
    if as_json:
        typer.echo(json.dumps(_plain(version), indent=2, ensure_ascii=False))
        return
    _print_version(version)
    typer.echo(f"next: llmops data show {version.digest[:16]} --rows 5, or llmops finetune {recipe}")


@app.command()
def show(
    version: _Version,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Print so many rows of each split.")] = 0,
    as_json: _Json = False,
) -> None:
    """Show where a version's rows come from, what was found, and some of them."""
    from itertools import islice

    from llmops.data.versions import rows_of

    found = _version(version)
    examples = {split: list(islice(rows_of(found, split), rows)) for split in ("train", "validation")}
    if as_json:
        shown = {split: [_plain(row) for row in some] for split, some in examples.items()}
        typer.echo(json.dumps(_plain(found) | {"examples": shown}, indent=2, ensure_ascii=False))
        return
    _print_version(found)
    for split, some in examples.items():
        for row in some:
            typer.echo(f"{split} {row.source}:{row.line}\n{_indented(row)}")
    typer.echo(f"next: llmops data diff {found.digest[:16]} ANOTHER")


@app.command()
def diff(a: _Version, b: _Version, as_json: _Json = False) -> None:
    """Say which rows the second version adds, lacks, or has on the other side of the split."""
    from dataclasses import asdict

    from llmops.data.versions import diff as difference_of

    one, other = _version(a), _version(b)
    difference = difference_of(one, other)
    if as_json:
        typer.echo(json.dumps({"a": one.digest, "b": other.digest, **asdict(difference)}, indent=2, ensure_ascii=False))
        return
    lines = [
        ("added", difference.added, difference.added_rows),
        ("removed", difference.removed, difference.removed_rows),
        ("moved between splits", difference.moved, difference.moved_rows),
        ("unchanged", difference.unchanged, ()),
    ]
    title = f"{one.digest[:16]} → {other.digest[:16]}"
    _table(title, ("rows", "count", "first of them"), [(what, str(n), "\n".join(named)) for what, n, named in lines])
    typer.echo(f"next: llmops data show {other.digest[:16]} --rows 5")


def register(parent: typer.Typer) -> None:
    lineage.register_data(app)
    parent.add_typer(app)


def _version(name: str) -> DatasetVersion:
    """The version a folder or the start of a digest names."""
    from llmops.data.versions import load_version
    from llmops.workspace import Workspace

    if name and Path(name).is_dir():
        return load_version(Path(name))
    objects = Workspace.current().home / "objects"
    known = sorted(path.name.removeprefix("dataset-") for path in objects.glob("dataset-*"))
    start = name.removeprefix("dataset-")[:16]
    found = [digest for digest in known if start and digest.startswith(start)]
    if len(found) == 1:
        version = load_version(objects / f"dataset-{found[0]}")
        if version.digest.startswith(name.removeprefix("dataset-")):
            return version
        found = []
    problem = f"{len(found)} dataset versions start with {name!r}" if found else f"there is no dataset version {name!r}"
    choices = ", ".join(found or known)
    raise InputError(
        problem,
        fix=f"use one of: {choices}" if choices else "make one with `llmops data check RECIPE`",
    )


class _Progress:
    """A live count of rows on a terminal; silent elsewhere, where the table at the end says it all."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("reading rows"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("rows", total=None)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total)


def _print_version(version: DatasetVersion) -> None:
    rows = ", ".join(f"{count} {name}" for name, count in version.rows.items())
    typer.echo(f"dataset version {version.digest[:16]}: {rows}")
    typer.echo(f"in {version.folder}")
    _table(
        "sources",
        ("source", "rows read", "digest"),
        [
            (use.source, str(use.rows), use.digest[:16] if len(use.digest) == 64 else use.digest)
            for use in version.sources
        ],
    )
    found = [(one.check, one.action, str(one.rows)) for one in version.findings]
    _table("checks", ("check", "rows were", "count"), found)
    for one in version.findings:
        if one.rows:
            typer.echo(f"{one.check}, the first {len(one.named)} of {one.rows}:")
            for named in one.named:
                typer.echo(f"  {named}")
    if version.rows["dropped"]:
        typer.echo(f"all dropped rows with their reasons: {version.folder / 'dropped.jsonl'}")


def _table(title: str, columns: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> None:
    """A table on a terminal; elsewhere one line per row with tabs, for other programs to read."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        typer.echo("\t".join(columns))
        for line in lines:
            typer.echo("\t".join(cell.replace("\n", "; ") for cell in line))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        number = column in ("rows read", "count")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)


def _plain(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(record).items()}


def _indented(row: Row) -> str:
    return "\n".join(f"  {line}" for line in json.dumps(dict(row.content), indent=2, ensure_ascii=False).splitlines())
