"""What a model rests on has a known licence, all the way back, or it is not promoted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.database import open_database
from llmops.errors import InputError
from llmops.finetune.recipe import Recipe
from llmops.lifecycle.loop import Result
from llmops.registry import store
from llmops.registry.licence_chain import Licensed, joint, of_version, unknown
from llmops.registry.promote import approve, promote
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import attach, sealed
from tests.finetune.small_models import make_random_base
from tests.lifecycle.sites import Heard, Site


def rows(site: Site, **more: Any) -> dict[str, Any]:
    return {"source": f"{site.folder}/rows.jsonl", "prompt": "{question}", "completion": "{answer}", **more}


def unlicensed(site: Site, **changes: Any) -> Recipe:
    return site.recipe(data={"train": [rows(site)]}, evaluate=None, **changes)


def version_of(result: Result) -> ModelVersion:
    assert result.version is not None
    return result.version


def judged(version: ModelVersion, site: Site) -> ModelVersion:
    """The version with a PASS."""
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
    return version


def test_the_chain_names_base_and_every_source_with_where_it_is_stated(site: Site) -> None:
    other = rows(site, licence="MIT OR CC-BY-4.0", take=30)
    done = site.run(site.recipe(data={"train": [rows(site, licence="cc0-1.0")], "validation": [other]}, evaluate=None))
    chain = of_version(version_of(done))
    assert chain == [
        Licensed("base", str(site.base), "Apache-2.0", "its model card"),
        Licensed("data", f"{site.folder}/rows.jsonl", "CC0-1.0", "the recipe"),
        Licensed("data", f"{site.folder}/rows.jsonl", "MIT OR CC-BY-4.0", "the recipe"),
    ]
    assert joint(chain) == "Apache-2.0 AND CC0-1.0 AND (MIT OR CC-BY-4.0)"
    assert done.finished.manifest.lineage["licences"][0]["licence"] == "Apache-2.0"


def test_what_ships_with_the_project_is_known(site: Site) -> None:
    festivals = {"source": "builtin:festivals/train", "prompt": "{prompt}", "completion": "{completion}", "take": 30}
    done = site.run(site.recipe(data={"train": [festivals]}, batch={"sequences": 8, "max_length": 400}, evaluate=None))
    assert unknown(of_version(version_of(done))) == []


def test_an_unknown_licence_stops_a_promotion_and_is_named(site: Site) -> None:
    version = judged(version_of(site.run(unlicensed(site))), site)
    approve(version, "ann", workspace=site.workspace)
    with pytest.raises(InputError) as refused:
        promote(version, "bob", workspace=site.workspace)
    assert f"data {site.folder}/rows.jsonl" in refused.value.problem
    assert str(site.base) not in refused.value.problem
    assert "licence:" in refused.value.fix


def test_an_override_with_a_reason_lifts_that_and_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    version = judged(version_of(site.run(unlicensed(site))), site)
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))
    runner = CliRunner()
    runner.invoke(app, ["models", "approve", "small/1", "--as", "ann", "--override", "ours"], catch_exceptions=False)
    made = promote(version, "bob", workspace=site.workspace)
    assert made.override
    assert made.verdict
    told = runner.invoke(app, ["models", "history", "small"], catch_exceptions=False).stdout
    assert "BY OVERRIDE: ours" in told
    assert "WITHOUT A PASS" not in told


def test_a_licence_stated_later_is_recorded_without_training_again(site: Site) -> None:
    version = judged(version_of(site.run(unlicensed(site))), site)
    approve(version, "ann", workspace=site.workspace)
    heard = Heard()
    again = site.run(site.recipe(data={"train": [rows(site, licence="CC0-1.0")]}, evaluate=None), heard=heard)
    assert again.finished.cached
    assert heard.steps == []
    assert version_of(again).version == version.version
    promote(version_of(again), "bob", workspace=site.workspace)


def test_a_base_without_a_card_is_unknown(site: Site) -> None:
    make_random_base(site.folder / "bare", hidden=32)
    (site.folder / "bare" / "README.md").unlink()
    done = site.run(site.recipe(base=str(site.folder / "bare"), evaluate=None))
    assert unknown(of_version(version_of(done))) == [f"base {site.folder / 'bare'}"]


@pytest.mark.parametrize("by_folder", [True, False], ids=["base by folder", "base by name"])
def test_a_base_made_here_brings_what_it_rests_on(
    make_site: Callable[[Path], Site], tmp_path: Path, by_folder: bool
) -> None:
    site = make_site(tmp_path)
    first = site.run(unlicensed(site, name="first"))
    base = str(first.finished.artifact) if by_folder else "models:/first@latest"
    second = of_version(version_of(site.run(site.recipe(base=base, evaluate=None))))
    through = "first" if by_folder else "models:/first/1"
    assert unknown(second) == [f"data {site.folder}/rows.jsonl (by {through})"]


def test_a_version_of_which_nothing_was_recorded_is_not_promoted(site: Site) -> None:
    done = site.run(site.recipe(evaluate=None))
    bare = replace(done.finished.manifest, lineage={})
    version = store.register("old", done.finished.artifact, bare, workspace=site.workspace)
    assert of_version(version) is None
    assert unknown(None) == ["its base and its data, of which no licence was recorded"]
    assert joint(None) is None


@pytest.mark.parametrize(("licence", "named"), [("CC BY 4.0", "CC-BY-4.0"), ("free", "LicenseRef-NAME")])
def test_a_recipe_with_no_spdx_id_is_refused_where_it_stands(site: Site, licence: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        site.recipe(data={"train": [rows(site, licence=licence)]})


def test_the_licence_is_no_part_of_a_recipes_identity(site: Site) -> None:
    one, two = (site.recipe(data={"train": [rows(site, licence=licence)]}) for licence in (None, "MIT"))
    assert one.model_dump(mode="json") == two.model_dump(mode="json")
    assert '"licence"' not in json.dumps(two.model_dump(mode="json"))
