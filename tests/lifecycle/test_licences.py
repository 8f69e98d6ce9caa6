"""A run states what licences its model rests on, and a promotion asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.database import open_database
from llmops.errors import InputError
from llmops.lifecycle.loop import Result
from llmops.registry.licence_chain import Licensed, of_version, unknown
from llmops.registry.promote import approve, promote
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import attach, sealed
from tests.lifecycle.sites import Site
from tests.listener import Heard


def rows(site: Site, **more: Any) -> dict[str, Any]:
    return {"source": f"{site.folder}/rows.jsonl", "prompt": "{question}", "completion": "{answer}", **more}


def version_of(result: Result) -> ModelVersion:
    assert result.version is not None
    return result.version


@pytest.fixture
def unlicensed(make_site: Callable[[Path], Site], tmp_path: Path) -> tuple[Site, ModelVersion]:
    """A version with a PASS, on rows whose licence nobody stated."""
    site = make_site(tmp_path)
    version = version_of(site.run(site.recipe(data={"train": [rows(site)]}, evaluate=None)))
    content: dict[str, Any] = {
        "result": "PASS",
        "gate": "g.yaml",
        "model_digest": version.digest,
        "against": None,
        "confidence": 0.95,
        "rules": [],
        "reports": [],
        "code_version": "1",
    }
    attach(open_database(site.workspace), sealed(content))
    return site, version


def call(site: Site, *arguments: str) -> str:
    done = CliRunner(env={"LLMOPS_HOME": str(site.workspace.home)}).invoke(app, ["models", *arguments])
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_licence_stated_later_is_recorded_without_training_again(unlicensed: tuple[Site, ModelVersion]) -> None:
    site, version = unlicensed
    approve(version, "ann", workspace=site.workspace)
    with pytest.raises(InputError) as refused:
        promote(version, "bob", workspace=site.workspace)
    assert f"data {site.folder}/rows.jsonl" in refused.value.problem
    assert str(site.base) not in refused.value.problem
    assert "licence:" in refused.value.fix
    heard = Heard()
    again = site.run(site.recipe(data={"train": [rows(site, licence="cc0-1.0")]}, evaluate=None), heard=heard)
    assert again.finished.cached
    assert heard.steps == []
    assert version_of(again).version == version.version
    assert of_version(version_of(again)) == [
        Licensed("base", str(site.base), "Apache-2.0", "its model card"),
        Licensed("data", f"{site.folder}/rows.jsonl", "CC0-1.0", "the recipe"),
    ]
    # What was known of them at that moment stays in the chain of decisions, whatever becomes of the registry's tags.
    made = promote(version_of(again), "bob", workspace=site.workspace)
    assert made.reason == "licences Apache-2.0 AND CC0-1.0"


def test_an_override_with_a_reason_lifts_that_and_is_shown_for_ever(unlicensed: tuple[Site, ModelVersion]) -> None:
    site, _ = unlicensed
    assert "a promotion will be refused" in call(site, "approve", "small/1", "--as", "ann")
    with pytest.raises(InputError, match="unknown licences"):
        call(site, "promote", "small/1", "--as", "bob")
    call(site, "approve", "small/1", "--as", "ann", "--override", "they are ours")
    said = call(site, "promote", "small/1", "--as", "bob")
    assert f"BY OVERRIDE: licences not known for data {site.folder}/rows.jsonl" in said
    told = call(site, "history", "small")
    assert "ann approved models:/small/1 on verdict" in told
    assert "BY OVERRIDE: they are ours" in told
    assert "WITHOUT A PASS" not in told
    assert "not known: data" in call(site, "show", "small")


def test_what_a_base_rests_on_its_models_rest_on(unlicensed: tuple[Site, ModelVersion]) -> None:
    site, first = unlicensed
    second = version_of(site.run(site.recipe(name="second", base=first.reference, evaluate=None)))
    assert unknown(of_version(second)) == [f"data {site.folder}/rows.jsonl (by models:/small/1)"]


@pytest.mark.parametrize(("licence", "named"), [("CC BY 4.0", "CC-BY-4.0"), ("free", "LicenseRef-NAME")])
def test_a_recipe_with_no_spdx_id_is_refused_where_it_stands(site: Site, licence: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        site.recipe(data={"train": [rows(site, licence=licence)]})


def test_the_licence_is_no_part_of_a_recipes_identity(site: Site) -> None:
    one, two = (site.recipe(data={"train": [rows(site, licence=licence)]}) for licence in (None, "MIT"))
    assert one.model_dump(mode="json") == two.model_dump(mode="json")
    assert '"licence"' not in json.dumps(two.model_dump(mode="json"))
