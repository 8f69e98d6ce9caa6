"""A reference names one checked folder on this machine, or says in two lines what to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.files import folder_digest
from llmops.registry.reference import resolve
from llmops.registry.store import register
from llmops.workspace import Workspace
from tests.patience import once_in_three
from tests.registry.artifacts import manifest_of, write_model


@pytest.fixture
def plain(tmp_path: Path) -> Workspace:
    """A workspace without a registry."""
    return Workspace(tmp_path / "home")


def test_a_folder_is_itself(plain: Workspace, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    found = resolve(str(folder), workspace=plain)
    assert found.folder == folder
    assert found.digest == folder_digest(folder)
    assert found.revision is None
    assert found.reference == str(folder)


def test_a_folder_that_exists_wins_over_the_hub(
    plain: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name", workspace=plain).folder == tmp_path / "org" / "name"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        pytest.param("builtin:tinny", "did you mean `tiny`", id="an embedded base misspelt"),
        pytest.param("buildin:tiny", "did you mean `builtin:tiny`", id="its prefix misspelt"),
        pytest.param("builtin/tiny", "did you mean `builtin:tiny`", id="a slash for the colon"),
        pytest.param("tiny", "did you mean `builtin:tiny`", id="the prefix left out"),
        pytest.param("models:e2e", "no model version", id="no slash after models:"),
        pytest.param("models:/e2e@", "no model version", id="an alias left out"),
        pytest.param("org/name@", "names no model", id="a revision left out"),
        pytest.param("./nowhere", "there is no folder", id="a folder that is not there"),
        pytest.param("models:/e2e@champion", "no model is called 'e2e'", id="an empty registry"),
    ],
)
def test_what_names_nothing_is_refused(plain: Workspace, reference: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(reference, workspace=plain)
    assert said in caught.value.problem
    assert caught.value.fix


def test_a_misspelt_folder_is_told_the_one_beside_it(plain: Workspace, tmp_path: Path) -> None:
    write_model(tmp_path / "llama-tuned")
    with pytest.raises(InputError, match="did you mean `llama-tuned`"):
        resolve(str(tmp_path / "lama-tuned"), workspace=plain)


def test_a_file_is_told_its_folder(plain: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model is a folder"):
        resolve(str(write_model(tmp_path / "m") / "model.safetensors"), workspace=plain)


def test_a_registered_version_is_found_by_number_and_alias(workspace: Workspace, tmp_path: Path) -> None:
    artifact = write_model(tmp_path / "m")
    made = register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    for reference in ("models:/e2e/1", "models:/e2e@latest", "models:/e2e"):
        found = resolve(reference, workspace=workspace)
        assert found.digest == made.digest == folder_digest(artifact)
        assert found.revision == "1"
        assert found.folder != artifact, "the run's folder may go"


def test_bytes_that_changed_since_they_were_registered_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    artifact = write_model(tmp_path / "m")
    register("e2e", artifact, manifest_of(artifact), workspace=workspace)
    write_model(resolve("models:/e2e/1", workspace=workspace).folder, 2.0)
    with pytest.raises(EnvironmentFault, match="changed since they were registered"):
        resolve("models:/e2e/1", workspace=workspace)


@once_in_three
def test_a_registry_that_does_not_answer_is_said_at_once(plain: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    begun = time.monotonic()
    with pytest.raises(EnvironmentFault, match="does not answer") as caught:
        resolve("models:/e2e@champion", workspace=plain)
    assert time.monotonic() - begun < 5
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, LlmopsError)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
