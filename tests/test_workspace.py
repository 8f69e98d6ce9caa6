"""All state is in one folder, which the environment chooses and which is made when first needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault
from llmops.workspace import Workspace


def test_it_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "elsewhere"))
    assert Workspace.current().home == tmp_path / "elsewhere"


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_choice_it_is_a_hidden_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMOPS_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("LLMOPS_HOME", given)
    assert Workspace.current().home == tmp_path / ".llmops"


def test_a_relative_choice_stays_where_it_was_when_the_current_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMOPS_HOME", "state")
    workspace = Workspace.current()
    monkeypatch.chdir("/")
    assert workspace.home == tmp_path / "state"


def test_a_tilde_is_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLMOPS_HOME", "~/state")
    assert Workspace.current().home == tmp_path / "state"


def test_folders_are_made_when_asked_for_and_not_before(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "deep" / "home")
    assert not workspace.home.exists()
    made = {workspace.cache, workspace.objects, workspace.runs, workspace.folder("x/y")}
    assert {str(path.relative_to(workspace.home)) for path in made} == {"cache", "objects", "runs", "x/y"}
    assert all(path.is_dir() for path in made)


def test_a_file_in_the_way_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be made") as caught:
        Workspace(tmp_path / "home").folder("cache")
    assert "set LLMOPS_HOME" in caught.value.fix


def test_a_folder_that_cannot_be_written_is_an_error_before_any_work(tmp_path: Path) -> None:
    # Kernel settings: a folder nobody may make files in, root included.
    nobody_writes_here = Path("/proc/sys/kernel")
    if os.access(nobody_writes_here, os.W_OK):
        nobody_writes_here = tmp_path / "locked"
        nobody_writes_here.mkdir(mode=0o500)
        if os.access(nobody_writes_here, os.W_OK):
            pytest.skip("this user may write everywhere")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Workspace(nobody_writes_here).folder(".")


def test_tracking_is_sqlite_in_the_workspace_unless_the_environment_names_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(tmp_path / "my home")
    assert workspace.tracking_uri == f"sqlite:///{tmp_path.resolve()}/my home/mlflow.db"
    assert workspace.home.is_dir(), "SQLite makes files, not folders"
    assert workspace.artifacts_uri == f"{tmp_path.as_uri()}/my%20home/artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert workspace.tracking_uri == "https://mlflow.example"
