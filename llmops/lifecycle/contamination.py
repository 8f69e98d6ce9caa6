"""How much of a suite a model was trained on: its own rows, and those of the models it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmops.data.checks import Contamination
from llmops.data.versions import load_version, rows_of, version_folder
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.items import prompts
from llmops.eval.suite import Suite
from llmops.events import Listener
from llmops.records import ModelSource, Row
from llmops.registry.reference import registry_name, resolve
from llmops.workspace import Workspace


def contaminated_shares(
    model: ModelSource, suites: Sequence[Suite], workspace: Workspace, listener: Listener
) -> dict[str, float]:
    """Share (0 to 1) of each suite's prompts that rows the model was trained on hold, by the suite's name.

    What the first of its bases was trained on, before anything of ours, is not known and said so.

    Raises:
        InputError: nobody knows what the model was trained on.
        EnvironmentFault: its rows are not on this machine any more.
    """
    found = {}
    for suite in suites:
        check = Contamination({suite.name: prompts(suite)})
        found[suite.name] = check.share_found(_rows(model, workspace, listener))
    return found


def _rows(model: ModelSource, workspace: Workspace, listener: Listener) -> Iterator[Row]:
    manifest = _manifest(model.folder)
    if manifest is None:
        raise InputError(
            f"the gate asks what {model.reference} was trained on, and no manifest of a run lies beside it",
            fix="judge an artifact of `llmops finetune`, or take the rule `contaminated_at_most` out of the gate",
        )
    named = model.reference
    while manifest is not None:
        dataset = manifest["lineage"].get("dataset")
        try:
            if dataset is not None:  # what was quantized was not trained
                yield from rows_of(load_version(version_folder(workspace.objects, dataset)), "train")
        except InputError as error:
            raise EnvironmentFault(
                f"the rows that {named} was trained on are not in this workspace any more",
                fix="run its recipe again, which prepares them, or judge it where it was trained",
            ) from error
        named = str(manifest["lineage"]["base"])
        manifest = _manifest_of_base(named, workspace, listener)
    listener.say(f"gate: what {named} was trained on is not known, so only the rows since count as contamination")


def _manifest_of_base(named: str, workspace: Workspace, listener: Listener) -> dict[str, dict[str, str]] | None:
    """Of a base that is itself the artifact of a run; None for any other."""
    if registry_name(named) is None and not Path(named).is_dir():
        return None
    return _manifest(resolve(named, workspace=workspace, say=listener.say).folder)


def _manifest(folder: Path) -> dict[str, dict[str, str]] | None:
    file = folder / "manifest.json"
    if not file.is_file():
        return None
    found: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return found
