"""A model rests on the licences of its base, of all that rests on, and of each source; none is guessed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.records import ModelSource
from llmops.registry import store
from llmops.registry.licence_chain import TAG, Licensed, chain_of, check_known, joint, of_version, to_plain, unknown
from llmops.workspace import Workspace
from tests.registry.artifacts import manifest_of, write_model

CARD = "---\nlicense: mit\n---\n"
OWN_ROWS = Licensed("data", "rows.csv", "CC0-1.0", "the recipe")
UNKNOWN_ROWS = Licensed("data", "more.csv", None, "nowhere")


def source(folder: Path, reference: str | None = None, revision: str | None = None) -> ModelSource:
    return ModelSource(reference or str(folder), folder, revision, folder_digest(folder))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "base")
    (folder / "README.md").write_text(CARD)
    return folder


def test_base_and_every_source_with_where_it_is_stated(base: Path, workspace: Workspace) -> None:
    sources = [("rows.csv", "CC0-1.0"), ("rows.csv", "MIT OR CC-BY-4.0"), ("s3://me:secret@host/x.csv", None)]
    chain = chain_of(source(base), [*sources, sources[0]], workspace=workspace)
    assert chain == [
        Licensed("base", str(base), "MIT", "its model card"),
        OWN_ROWS,
        Licensed("data", "rows.csv", "MIT OR CC-BY-4.0", "the recipe"),
        Licensed("data", "s3://host/x.csv", None, "nowhere"),
    ]
    assert unknown(chain) == ["data s3://host/x.csv"]
    assert joint(chain) is None
    assert joint(chain[:3]) == "CC0-1.0 AND MIT AND (MIT OR CC-BY-4.0)"
    assert joint(chain[2:3]) == "MIT OR CC-BY-4.0"


def test_what_ships_with_llmops_is_known(tmp_path: Path, workspace: Workspace) -> None:
    embedded = ModelSource("builtin:tiny", tmp_path, None, "0" * 64)
    chain = chain_of(embedded, [("builtin:festivals/train", None)], workspace=workspace)
    assert [(one.licence, one.stated) for one in chain] == [("Apache-2.0", "part of llmops")] * 2


def test_a_merged_folder_rests_on_what_its_adapter_rests_on(tmp_path: Path, workspace: Workspace) -> None:
    adapter = write_model(tmp_path / "adapter", config="adapter_config.json")
    facts = {TAG: json.dumps(to_plain([OWN_ROWS]))}
    version = store.register("m", adapter, manifest_of(adapter), workspace=workspace, facts=facts)
    merged = write_model(tmp_path / "merged", 2.0)
    (merged / "merge.json").write_text(json.dumps({"merged_from": {"adapter_digest": version.digest}}))
    assert chain_of(source(merged), [], workspace=workspace) == [replace(OWN_ROWS, through="models:/m/1")]
    (merged / "merge.json").write_text(json.dumps({"merged_from": {"adapter_digest": "f" * 64}}))
    assert unknown(chain_of(source(merged), [], workspace=workspace)) == [f"base {merged}"], "no version has it"


def test_a_base_that_states_none_is_unknown(base: Path, workspace: Workspace) -> None:
    (base / "README.md").unlink()
    assert unknown(chain_of(source(base), [], workspace=workspace)) == [f"base {base}"]


@pytest.mark.parametrize("recorded", [[OWN_ROWS, UNKNOWN_ROWS], []], ids=["recorded", "not recorded"])
def test_a_base_that_is_a_version_brings_its_own_chain(
    base: Path, workspace: Workspace, recorded: list[Licensed]
) -> None:
    facts = {TAG: json.dumps(to_plain(recorded))} if recorded else None
    version = store.register("m", base, manifest_of(base), workspace=workspace, facts=facts)
    held = store.fetch(version, workspace=workspace)
    chain = chain_of(source(held, "models:/m@champion", "1"), [], workspace=workspace)
    if recorded:
        assert [(one.name, one.through) for one in chain] == [("rows.csv", "models:/m/1"), ("more.csv", "models:/m/1")]
        assert unknown(chain) == ["data more.csv (by models:/m/1)"]
    else:
        assert unknown(chain) == ["base models:/m/1 (by models:/m/1)"]


def test_a_base_that_is_the_folder_of_a_run_brings_what_its_manifest_says(base: Path, workspace: Workspace) -> None:
    manifest = manifest_of(base, lineage={"licences": to_plain([OWN_ROWS])})
    (base / "manifest.json").write_text(json.dumps(asdict(manifest)))
    chain = chain_of(source(base), [], workspace=workspace)
    assert chain == [Licensed("data", "rows.csv", "CC0-1.0", "the recipe", through="e2e-nlg")]
    # A manifest that lies beside other bytes says nothing of them.
    (base / "config.json").write_text('{"changed": 1}')
    assert [one.name for one in chain_of(source(base), [], workspace=workspace)] == [str(base)]


def test_what_was_stated_last_counts(base: Path, workspace: Workspace) -> None:
    manifest = manifest_of(base, lineage={"licences": to_plain([UNKNOWN_ROWS])})
    version = store.register("m", base, manifest, workspace=workspace)
    assert of_version(version) is None
    assert of_version(version, manifest) == [UNKNOWN_ROWS]
    for stated in ([OWN_ROWS, UNKNOWN_ROWS], [OWN_ROWS]):
        facts = {TAG: json.dumps(to_plain(stated))}
        assert of_version(store.register("m", base, manifest, workspace=workspace, facts=facts), manifest) == stated


@pytest.mark.parametrize("chain", [None, []])
def test_a_version_of_which_nothing_was_recorded_is_all_unknown(
    base: Path, workspace: Workspace, chain: list[Licensed] | None
) -> None:
    version = store.register("m", base, manifest_of(base), workspace=workspace)
    assert joint(chain) is None
    with pytest.raises(InputError, match="models:/m/1 rests on unknown licences: its base and its data"):
        check_known(version, chain)
    check_known(version, [OWN_ROWS])
