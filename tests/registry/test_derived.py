"""What was quantized from an artifact is found by its digest and the scheme: the newest, a whole model or a base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.registry.derived import FROM_TAG, SCHEME_TAG, beside_tag, made_beside, made_from
from llmops.registry.store import ModelVersion, register
from llmops.workspace import Workspace
from tests.registry.artifacts import manifest_of, write_model

Make = Callable[..., ModelVersion]
ORIGINAL, ADAPTER = "1" * 64, "2" * 64


@pytest.fixture
def quantized(workspace: Workspace, tmp_path: Path) -> Make:
    """A version with its own bytes and these facts."""

    def make(name: str, **facts: str) -> ModelVersion:
        folder = write_model(tmp_path / name)
        (folder / "tokenizer.json").write_text(f'{{"of": "{name}"}}')
        manifest = replace(manifest_of(folder), kind="quantized")
        return register(name, folder, manifest, workspace=workspace, facts=facts)

    return make


def test_the_newest_by_the_scheme_is_found(workspace: Workspace, quantized: Make) -> None:
    quantized("a-w4a16", **{FROM_TAG: ORIGINAL, SCHEME_TAG: "w4a16"})
    newest = quantized("b-w4a16", **{FROM_TAG: ORIGINAL, SCHEME_TAG: "w4a16"})
    other = quantized("a-w8a8", **{FROM_TAG: ORIGINAL, SCHEME_TAG: "w8a8"})
    assert made_from(ORIGINAL, "w4a16", workspace=workspace) == newest
    assert made_from(ORIGINAL, "w8a8", workspace=workspace) == other
    assert made_from(ORIGINAL, "fp8", workspace=workspace) is None
    assert made_from(ADAPTER, "w4a16", workspace=workspace) is None


def test_a_base_that_an_adapter_stands_beside_is_never_taken_for_the_whole(
    workspace: Workspace, quantized: Make
) -> None:
    another = "3" * 64
    facts = {FROM_TAG: ORIGINAL, SCHEME_TAG: "w4a16", beside_tag(ADAPTER): "w4a16"}
    quantized("a-w4a16-base", **facts)
    base = quantized("a-w4a16-base", **{beside_tag(another): "w4a16"})
    assert made_beside(another, "w4a16", workspace=workspace) == base, "one base serves many adapters"
    assert made_from(ADAPTER, "w4a16", workspace=workspace) is None
    assert made_beside(ADAPTER, "w4a16", workspace=workspace) == base
    assert made_from(ORIGINAL, "w4a16", workspace=workspace) == base


def test_a_workspace_without_a_registry_has_none(tmp_path: Path) -> None:
    assert made_from(ORIGINAL, "w4a16", workspace=Workspace(tmp_path / "empty")) is None
