"""A version of the registry is the bytes of an artifact, kept whatever becomes of the run, with what made them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault, InputError
from llmops.files import folder_digest
from llmops.records import Report, Score
from llmops.registry.connection import connect
from llmops.registry.store import fetch, find, names, register, versions
from llmops.workspace import Workspace
from tests.registry.artifacts import manifest_of, write_model


def report(bleu: float) -> Report:
    return Report("e2e", "m", "d", 630, (Score("bleu", bleu, "nrefs:var|case:lc"),), {})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "run" / "artifact", config="adapter_config.json")
    (folder / "README.md").write_text("# card")
    return folder


def test_a_version_says_what_made_it_and_how_it_scored(workspace: Workspace, artifact: Path) -> None:
    made = register("e2e", artifact, manifest_of(artifact), [report(32.9)], workspace=workspace, run_id="r1")
    assert made.reference == "models:/e2e/1"
    assert made.digest == folder_digest(artifact)
    assert made.kind == "adapter"
    assert made.run_id == "r1"
    assert made.scores == {"e2e.bleu": 32.9}
    assert made.tags["signature.e2e.bleu"] == "nrefs:var|case:lc"
    assert made.tags["llmops.base"] == "org/base"
    assert made.tags["llmops.base_revision"] == "c" * 40
    assert made.tags["llmops.base_digest"] == "b" * 64
    assert made.tags["llmops.data"] == "a" * 64
    assert made.tags["llmops.run"] == "d" * 64
    assert made.description == (
        "adapter from org/base, 100 steps on 45000 trained tokens, loss 1.2500, validation 1.5000 nats per token"
    )


def test_what_was_told_of_held_out_rows_is_a_score_too(workspace: Workspace, artifact: Path) -> None:
    told = {"accuracy": 0.8125, "kl_k3_per_token": 0.02}
    manifest = replace(manifest_of(artifact), validation_measures=told)
    made = register("e2e", artifact, manifest, [report(32.9)], workspace=workspace)
    assert made.scores == {"e2e.bleu": 32.9, "held-out.accuracy": 0.8125, "held-out.kl_k3_per_token": 0.02}


def test_the_bytes_outlive_the_run(workspace: Workspace, artifact: Path) -> None:
    made = register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    shutil.rmtree(artifact.parent)
    folder = fetch(made, workspace=workspace)
    assert folder_digest(folder) == made.digest
    assert (folder / "README.md").read_text() == "# card"


def test_the_same_bytes_twice_are_one_version_with_the_newer_scores(workspace: Workspace, artifact: Path) -> None:
    first = register("e2e", artifact, manifest_of(artifact), [report(30.0)], workspace=workspace)
    again = register("e2e", artifact, manifest_of(artifact), [report(31.0)], workspace=workspace)
    assert again.version == first.version
    assert [one.scores for one in versions("e2e", workspace=workspace)] == [{"e2e.bleu": 31.0}]


def test_two_at_once_are_one_version(workspace: Workspace, artifact: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: register("e2e", artifact, manifest_of(artifact), workspace=workspace), range(4)))
    assert {one.version for one in made} == {1}
    assert len(versions("e2e", workspace=workspace)) == 1


def test_other_bytes_are_another_version_newest_first(workspace: Workspace, artifact: Path) -> None:
    register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    write_model(artifact, 2.0, config="adapter_config.json")
    register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    register("another", artifact, manifest_of(artifact), workspace=workspace)
    assert [one.version for one in versions("e2e", workspace=workspace)] == [2, 1]
    assert names(workspace=workspace) == ["another", "e2e"]


def test_a_version_is_found_by_number_alias_and_the_reserved_names(workspace: Workspace, artifact: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        write_model(artifact, value, config="adapter_config.json")
        register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    connect(workspace.tracking_uri).set_registered_model_alias("e2e", "champion", "2")

    def number(which: str | None) -> int:
        return find("e2e", which, workspace=workspace).version

    assert number("champion") == 2
    assert number("1") == 1
    assert number("v2") == 2
    assert number("latest") == 3
    assert number(None) == 3
    assert find("e2e", "champion", workspace=workspace).aliases == ("champion",)


@pytest.mark.parametrize(
    ("name", "which", "said"),
    [
        pytest.param("e2", None, "no model is called 'e2'; did you mean `e2e`?", id="a model"),
        pytest.param("e2e", "champoin", "no alias 'champoin'; did you mean `champion`?", id="an alias"),
        pytest.param("e2e", "9", "no version '9'", id="a version"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest(
    workspace: Workspace, artifact: Path, name: str, which: str | None, said: str
) -> None:
    register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    connect(workspace.tracking_uri).set_registered_model_alias("e2e", "champion", "1")
    with pytest.raises(InputError) as caught:
        find(name, which, workspace=workspace)
    assert said in caught.value.problem
    assert "e2e" in caught.value.fix


def test_a_workspace_without_a_registry_has_no_models_and_makes_no_database(tmp_path: Path) -> None:
    empty = Workspace(tmp_path / "empty")
    assert names(workspace=empty) == []
    assert not (tmp_path / "empty" / "mlflow.db").exists()


def test_an_artifact_that_is_not_the_runs_is_refused_and_nothing_registered(
    workspace: Workspace, artifact: Path
) -> None:
    manifest = manifest_of(artifact)
    write_model(artifact, 2.0, config="adapter_config.json")
    with pytest.raises(InputError, match="is not what the run left"):
        register("e2e", artifact, manifest, workspace=workspace)
    assert names(workspace=workspace) == []


@pytest.mark.parametrize("name", ["a/b", "a:b", "", "-x", "a b"])
def test_a_name_that_a_reference_could_not_hold_is_refused(workspace: Workspace, artifact: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a model's name"):
        register(name, artifact, manifest_of(artifact), workspace=workspace)


def test_a_version_of_another_tool_is_found_where_it_lies(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "theirs")
    client = connect(workspace.tracking_uri)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", folder.as_uri())
    version = find("theirs", workspace=workspace)
    assert version.digest is None
    assert fetch(version, workspace=workspace) == folder


def test_bytes_that_are_lost_are_fetched_from_the_source_or_said(
    workspace: Workspace, artifact: Path, tmp_path: Path
) -> None:
    made = register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    held = fetch(made, workspace=workspace)
    elsewhere = tmp_path / "elsewhere"
    held.rename(elsewhere)
    fetched = fetch(replace(made, source=elsewhere.as_uri()), workspace=workspace)
    assert folder_digest(fetched) == made.digest
    shutil.rmtree(fetched)
    with pytest.raises(EnvironmentFault, match="cannot be had"):
        fetch(made, workspace=workspace)
    assert not fetched.exists()


def test_other_bytes_at_the_source_are_refused(workspace: Workspace, artifact: Path, tmp_path: Path) -> None:
    made = register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    held = fetch(made, workspace=workspace)
    shutil.rmtree(held)
    changed = write_model(tmp_path / "changed", 9.0, config="adapter_config.json")
    with pytest.raises(EnvironmentFault, match="not those that were registered"):
        fetch(replace(made, source=changed.as_uri()), workspace=workspace)
    assert not held.exists()


def test_a_database_of_another_schema_is_said(tmp_path: Path, workspace: Workspace) -> None:
    import sqlite3

    with sqlite3.connect(workspace.home / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.close()
    with pytest.raises(EnvironmentFault, match="MLflow store") as caught:
        names(workspace=workspace)
    assert "mlflow db upgrade" in caught.value.fix
