"""`models approve`, `promote`, `rollback`, `verify` and `history` decide, and say what was decided."""

from __future__ import annotations

import json

from typer.testing import CliRunner, Result

from llmops.cli.main import app
from llmops.errors import EnvironmentFault, InputError
from llmops.registry.connection import connect
from llmops.workspace import Workspace


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def refused(*arguments: str) -> str:
    done = run(*arguments)
    assert isinstance(done.exception, InputError | EnvironmentFault), done.output
    return done.exception.problem


def test_from_approval_to_rollback(two_versions: Workspace) -> None:
    done = run("approve", "m/1", "--as", "ann")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("ann approved models:/m/1 on verdict ")
    assert done.output.endswith("next: llmops models promote models:/m/1\n")
    assert "ann made models:/m/1 champion" in run("promote", "m/1", "--as", "ann").output
    assert "FAIL, by g.yaml" in refused("approve", "m/2", "--as", "ann")
    said = run("approve", "m/2", "--as", "ann", "--override", "the suite is old").output
    assert "ann approved models:/m/2 WITHOUT A PASS: the suite is old" in said
    run("promote", "m/2", "--as", "bob")
    assert (
        "bob went back to models:/m/1: it is rude"
        in run("rollback", "m", "--as", "bob", "--reason", "it is rude").output
    )
    told = run("history", "m").output.splitlines()
    assert [line[5:].split("  ")[1].split()[1] for line in told[:-1]] == [
        "trained", "trained", "approved", "made", "approved", "made", "went",
    ]  # fmt: skip
    assert [one["kind"] for one in json.loads(run("history", "m", "--json").stdout)][-1] == "rollback"
    assert "decisions, aliases and bytes agree" in run("verify").output
    assert "champion" in run("show", "m@champion").output
    shown = run("show", "m/2").output
    assert "FAIL by g.yaml" in shown
    assert "WITHOUT A PASS: the suite is old" in shown
    assert len(json.loads(run("show", "m/1", "--json").stdout)["decisions"]) == 4


def test_an_alias_moved_by_hand_is_an_error_that_is_put_right(two_versions: Workspace) -> None:
    connect(two_versions.tracking_uri).set_registered_model_alias("m", "champion", "2")
    assert refused("verify") == "aliases of m were moved without a decision; they are put back"
    assert json.loads(run("verify", "--json").stdout) == {"m": []}


def test_a_reason_is_asked_for_where_one_must_be_given(two_versions: Workspace) -> None:
    assert "an override needs its reason" in refused("approve", "m/1", "--as", "ann", "--override", " ")
    assert run("reject", "m/1").exit_code == 2
    assert "ann rejected models:/m/1: rude" in run("reject", "m/1", "--as", "ann", "--reason", "rude").output
    assert "not approved" in refused("promote", "m/1")


def test_what_is_not_there_is_named(two_versions: Workspace) -> None:
    assert "no model is called 'n'" in refused("approve", "n")
    assert "names no model version" in refused("promote", "m/1/2")
    assert "no previous champion" in refused("rollback", "m")
    assert "no decisions yet" in run("history", "n").output
