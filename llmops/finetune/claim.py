"""Whether a run may have its folder, and whether the same run is finished in it already."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.finetune.hold import held
from llmops.finetune.identity import differences
from llmops.records import RunManifest


def claim(folder: Path, parts: Mapping[str, Any], *, resume: bool) -> RunManifest | None:
    """Whether this run may have the folder; answers the manifest of the same run finished before. Writes nothing.

    Raises:
        InputError: the folder belongs to a run that differs, with every difference named; another process
            trains in it now; or `resume` was asked and there is nothing to go on from.
    """
    record = folder / "identity.json"
    if record.is_file():
        # Asked here too, so that a second command is refused before it touches the first one's record.
        with held(folder):
            before = json.loads(record.read_text())
        if before != json.loads(json.dumps(parts)):
            named = list(differences(before, json.loads(json.dumps(parts))))
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            raise InputError(
                f"{folder} holds another run: {'; '.join(named[:3])}{more}",
                fix="choose another --out for the changed run, or undo the change to go on with this one",
            )
        return _finished(folder)
    if resume:
        raise InputError(
            f"there is no run to resume in {folder}",
            fix="leave --resume out to start it, or name its folder with --out",
        )
    return None


def check_writable(folder: Path) -> None:
    """Raises EnvironmentFault where nothing can be written; made before anything slow."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise EnvironmentFault(
            f"the output folder {folder} cannot be written ({error.strerror})",
            fix="choose another with --out, or set LLMOPS_HOME to a folder you may write",
        ) from error


def _finished(folder: Path) -> RunManifest | None:
    """The manifest of a run that is finished and whose artifact still has the bytes it had then."""
    try:
        manifest = RunManifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if folder_digest(folder / "artifact") != manifest.artifact_digest:
        shutil.rmtree(folder / "artifact", ignore_errors=True)
        return None
    return manifest
