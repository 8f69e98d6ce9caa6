"""The card and the bill of materials of a registered version, as everything on record says today."""

from __future__ import annotations

from llmops.database import open_database
from llmops.errors import EnvironmentFault
from llmops.lifecycle.evidence import reports_of
from llmops.registry.bom import bom, files_of
from llmops.registry.card import CardFacts, card
from llmops.registry.decisions import chain
from llmops.registry.licence_chain import of_version
from llmops.registry.run_records import manifest_of
from llmops.registry.store import ModelVersion, place_of
from llmops.registry.verdicts import verdicts_of
from llmops.workspace import Workspace


def facts_of(version: ModelVersion, *, workspace: Workspace) -> CardFacts:
    """Everything that a card of a version says.

    Raises:
        EnvironmentFault: the manifest of its run is gone, without which there is nothing to say.
    """
    manifest = manifest_of(version, workspace)
    if manifest is None:
        raise EnvironmentFault(
            f"the record of the run that made {version.reference} is gone",
            fix="run its recipe again: the same run registers the same version, with its record",
        )
    engine = open_database(workspace)
    return CardFacts(
        manifest=manifest,
        reports=reports_of(version, manifest, workspace),
        licences=of_version(version, manifest),
        verdicts=verdicts_of(engine, version.digest) if version.digest else (),
        decisions=[link for link in chain(engine, version.name) if link.version == version.version],
        reference=version.reference,
    )


def card_of(version: ModelVersion, *, workspace: Workspace) -> str:
    """Its card as Markdown with metadata in front."""
    return card(facts_of(version, workspace=workspace))


def bom_of(version: ModelVersion, *, workspace: Workspace) -> str:
    """Its bill of materials as CycloneDX JSON; without the single files where the bytes are not on this machine."""
    folder = place_of(workspace, version.digest) if version.digest else None
    files = files_of(folder) if folder is not None and folder.is_dir() else {}
    return bom(facts_of(version, workspace=workspace), files)
