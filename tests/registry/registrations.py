"""Versions in a registry as their history left them: judged, approved, champion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.records import Verdict
from llmops.registry import store
from llmops.registry.promote import approve, promote, registered
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import sealed
from llmops.workspace import Workspace
from tests.registry.artifacts import LICENSED, manifest_of, write_model


def verdict(artifact: str, result: Any = "PASS", against: str | None = None) -> Verdict:
    content: dict[str, Any] = {
        "result": result,
        "gate": "g.yaml",
        "model_digest": artifact,
        "against": against,
        "confidence": 0.95,
        "rules": [{"rule": "s bleu ≥ 1", "value": 2.0, "result": result}],
        "reports": ["r"],
        "code_version": "1",
    }
    return sealed(content)


def register(
    folder: Path,
    workspace: Workspace,
    *,
    result: str | None = "PASS",
    name: str = "m",
    against: str | None = None,
    **facts: str,
) -> ModelVersion:
    """The next version of a model, from a folder, judged as asked; None leaves it without a verdict."""
    one = store.register(name, folder, manifest_of(folder), workspace=workspace, facts=LICENSED | facts)
    assert one.digest is not None
    registered(one, None if result is None else verdict(one.digest, result, against), workspace=workspace)
    return one


def champion(one: ModelVersion, workspace: Workspace) -> None:
    approve(one, "ann", workspace=workspace)
    promote(one, "ann", workspace=workspace)


@dataclass
class Registrar:
    """Called, it registers a model of its own bytes as the next version."""

    workspace: Workspace
    folder: Path
    made: int = 0

    def __call__(
        self, result: str | None = "PASS", name: str = "m", against: str | None = None, **facts: str
    ) -> ModelVersion:
        self.made += 1
        folder = write_model(self.folder / f"run{self.made}", value=float(self.made))
        return register(folder, self.workspace, result=result, name=name, against=against, **facts)
