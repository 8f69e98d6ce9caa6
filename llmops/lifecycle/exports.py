"""A campaign's ratings as a dataset on disk, and the record of it that erasing a rater looks at."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmops.database import open_database
from llmops.errors import InputError
from llmops.feedback.events import write_event
from llmops.feedback.export import Exporting, Purpose, fraction
from llmops.feedback.export import export as rows_of
from llmops.feedback.export_files import FileFormat, write
from llmops.feedback.ratings import rated, ratings, replaced
from llmops.feedback.store import campaign_named, rubrics
from llmops.feedback.writing import writing
from llmops.files import file_digest
from llmops.workspace import Workspace

EXPORTED = "exported"
"""The kind of event; its detail names the raters whose ratings are in it, and the digests of its files."""


def export(
    campaign: str,
    purpose: Purpose,
    out: Path,
    *,
    workspace: Workspace,
    file_format: FileFormat = "jsonl",
    validation: float = 0.0,
    sure: float = 0.5,
    personal_data: bool = False,
) -> dict[str, Any]:
    """Write the rows of a campaign into the folder `out`; what its export.json says.

    Args:
        validation: share of clusters of prompts whose rows are held out; with any, both sides have rows where there
            are two clusters with rows.

    Raises:
        InputError: there is no such campaign, it cannot give such rows, or no rating makes one.
    """
    engine = open_database(workspace)
    settings, rubric = campaign_named(engine, campaign), rubrics(engine, campaign)[-1]
    if settings.kind == "thumbs" and purpose in ("dpo", "reward"):
        raise InputError(
            f"{campaign} asks for thumbs, which compare nothing",
            fix="export it with --for kto, or ask for pairs in another campaign",
        )

    def record(folder: Path, about: dict[str, Any]) -> None:
        every = sorted(folder.glob(f"*.{file_format}"))
        files = {path.name: file_digest(path) for path in every if path.stem != "excluded"}
        detail = {"for": purpose, "folder": str(out.absolute()), "files": files, "raters": about["raters"]}
        with writing(engine, campaign=campaign) as connection:
            write_event(connection, EXPORTED, about["digest"], at=time.time(), campaign=campaign, detail=detail)

    def written(held_out: Callable[[str], bool]) -> tuple[Exporting, dict[str, Any]]:
        made, rows = rows_of(
            ratings(engine, campaign),
            rated(engine, campaign),
            purpose,
            rubric,
            sure=sure,
            held_out=held_out,
            personal_data=personal_data,
            replaced=replaced(engine, campaign),
        )
        whole = {"name": campaign, "kind": settings.kind, "rubric": rubric.identity}
        return made, write(out, made, rows, file_format=file_format, campaign=whole, record=record)

    made, about = written(lambda cluster: fraction(cluster) < validation)
    if validation and len(about["rows"]) == 1 and len(made.clusters) > 1:
        # So few clusters that chance left one side without rows: the first in the same order, or all but the last.
        ordered = sorted(made.clusters, key=fraction)
        held = set(ordered[:-1] if "validation" in about["rows"] else ordered[:1])
        _, about = written(held.__contains__)
    return about
