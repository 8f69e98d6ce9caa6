"""`llmops data` checks a recipe's data alone, shows a version, and says how two differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli import data
from llmops.errors import FileFaults, InputError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe over twenty rows, one of them twice and one without an answer; the workspace is a fresh folder."""
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    rows = [f"q{n},a{n}" for n in range(18)] + ["q0,a0", "q19,"]
    (tmp_path / "rows.csv").write_text("q,a\n" + "\n".join(rows) + "\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\nbase: builtin:tiny\ndata:\n  train:\n"
        f"    - {{source: {tmp_path}/rows.csv, prompt: '{{q}}', completion: '{{a}}'}}\n  validation: 0.2\n"
    )
    return path


def run(*arguments: object) -> str:
    app = typer.Typer()
    data.register(app)
    app.command("other")(lambda: None)
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def as_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_check_reports_counts_and_named_rows_and_the_next_command(recipe: Path) -> None:
    said = run("check", recipe)
    source = recipe.with_name("rows.csv")
    assert f"{source}:20: the same as line 2" in said
    assert f"{source}:21: the completion is empty" in said
    assert said.splitlines()[-1].startswith("next: llmops data show ")
    assert said.splitlines()[-1].endswith(f"llmops finetune {recipe}")


def test_check_as_json_is_the_version(recipe: Path) -> None:
    version = as_json("check", recipe)
    assert version["rows"]["dropped"] == 2
    assert version["rows"]["train"] + version["rows"]["validation"] == 18
    assert {found["check"]: found["rows"] for found in version["findings"]}["duplicates"] == 1
    assert (Path(version["folder"]) / "version.json").is_file()


def test_check_takes_overrides(recipe: Path) -> None:
    assert as_json("check", recipe, "--set", "data.checks.duplicates=keep")["rows"]["dropped"] == 1


def test_check_refuses_a_recipe_or_a_column_that_is_not_there(recipe: Path) -> None:
    with pytest.raises(FileFaults, match="did you mean `duplicates`"):
        run("check", recipe, "--set", "data.checks.duplicate=keep")
    with pytest.raises(InputError, match="no column `aa`"):
        run("check", recipe, "--set", "data.train.0.completion='{aa}'")


@pytest.mark.parametrize("length", [6, 16, 64])
def test_show_finds_a_version_by_the_start_of_its_digest(recipe: Path, length: int) -> None:
    digest = as_json("check", recipe)["digest"]
    assert as_json("show", digest[:length])["digest"] == digest


def test_show_takes_a_folder_and_prints_rows(recipe: Path) -> None:
    folder = as_json("check", recipe)["folder"]
    examples = as_json("show", folder, "--rows", 2)["examples"]
    assert [len(examples["train"]), len(examples["validation"])] == [2, 2]
    said = run("show", folder, "--rows", 1)
    assert '"role": "user"' in said
    assert "rows.csv:2" in said
    assert said.splitlines()[-1].startswith("next: llmops data diff ")


def test_show_of_an_unknown_digest_names_those_there_are(recipe: Path) -> None:
    with pytest.raises(InputError) as caught:
        run("show", "feed")
    assert "data check" in caught.value.fix
    digest = as_json("check", recipe)["digest"]
    for wrong in ("feed", digest[:20] + "x", ""):
        with pytest.raises(InputError) as caught:
            run("show", wrong)
        assert digest[:16] in caught.value.fix


def test_diff_counts_what_changed(recipe: Path) -> None:
    one = as_json("check", recipe)["digest"]
    source = recipe.with_name("rows.csv")
    source.write_text(source.read_text().replace("q3,a3", "q3,b3") + "new,row\n")
    other = as_json("check", recipe)["digest"]
    difference = as_json("diff", one, other)
    assert (difference["added"], difference["removed"], difference["unchanged"]) == (2, 1, 17)
    assert difference["removed_rows"] == [f"{source}:5"]
    said = run("diff", one[:16], other[:16])
    assert f"{source}:22" in said
    assert said.splitlines()[-1].startswith("next: llmops data show ")
