"""`llmops merge` finds the base the adapter names, prints the checks, and says what to run next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli import merge
from llmops.errors import InputError
from tests.finetune.small_adapters import make_adapter, make_base, say


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "small")


def run(*arguments: object) -> str:
    app = typer.Typer()
    merge.register(app)
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_recorded_base_is_taken_and_the_checks_are_printed(workspace: Path, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "artifact", base)
    printed = run(adapter)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    for check in ("equals the adapter", "same likeliest token", "differs from the base", "reads back"):
        assert check in printed
    assert printed.splitlines()[-1] == f"next: llmops eval {tmp_path / 'merged'} SUITE"


def test_json_is_the_report_and_nothing_else(workspace: Path, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base)
    said = json.loads(run(adapter, "--base", base, "--out", tmp_path / "out", "--dtype", "bf16", "--json"))
    assert said["out"] == str(tmp_path / "out")
    assert said["dtype"] == "bf16"
    assert said["kl_to_adapter"] <= said["kl_tolerance"]
    assert said["kl_to_base"] > 0


def test_without_out_the_model_lies_beside_the_adapter(workspace: Path, base: Path, tmp_path: Path) -> None:
    run(make_adapter(tmp_path / "polite", base))
    assert (tmp_path / "polite-merged" / "config.json").is_file()


def test_an_adapter_that_names_no_base_asks_for_one(workspace: Path, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base)
    say(adapter, base_model_name_or_path=None)
    with pytest.raises(InputError, match="does not say which base") as refused:
        run(adapter)
    assert "--base" in refused.value.fix


def test_a_base_that_is_not_there_is_an_error_with_a_fix(workspace: Path, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base)
    with pytest.raises(InputError, match="there is no folder"):
        run(adapter, "--base", tmp_path / "absent")
