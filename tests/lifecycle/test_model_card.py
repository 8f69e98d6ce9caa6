"""A registered version's card says what is on record today, also after its run's folder went."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.errors import EnvironmentFault
from llmops.files import file_digest
from llmops.finetune.run import check_base
from llmops.finetune.work import Tokens, count_flops
from llmops.lifecycle.loop import Result
from llmops.lifecycle.model_card import bom_of, card_of
from llmops.records import ModelSource
from llmops.registry.promote import approve
from llmops.registry.store import ModelVersion
from tests.lifecycle.sites import Site
from tests.lifecycle.test_loop import stores_of
from tests.registry.test_bom import validated

# One worker, so that what all of them look at is trained once.
pytestmark = pytest.mark.xdist_group("model-card")


@pytest.fixture(scope="module")
def made(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Result]:
    """A run measured on a suite with slices: numbers that begin with 1, 2, …"""
    site = make_site(tmp_path_factory.mktemp("made"))
    suite = site.folder / "suite.yaml"
    text = suite.read_text().replace("limit: 4", "slices: {digit: 'is (\\d)'}")
    suite.write_text(text)
    return site, site.run(site.recipe())


def version_of(result: Result) -> ModelVersion:
    assert result.version is not None
    return result.version


def test_it_is_read_by_the_hubs_library_with_every_score(made: tuple[Site, Result]) -> None:
    site, done = made
    read = ModelCard(card_of(version_of(done), workspace=site.workspace)).data
    assert (read.license, read.license_name) == ("other", "Apache-2.0 AND CC0-1.0")
    scores = {score.metric: score for score in done.reports[1].scores}
    results = {one.metric_type: one for one in read.eval_results or ()}
    assert {name: one.metric_value for name, one in results.items()} == {
        name: score.value for name, score in scores.items()
    }
    assert all(results[name].metric_args["low"] == score.low for name, score in scores.items())


def test_small_slices_are_said_to_be_too_small(made: tuple[Site, Result]) -> None:
    site, done = made
    text = card_of(version_of(done), workspace=site.workspace)
    sizes = done.reports[1].slice_items
    assert set(sizes) == {f"digit={digit}" for digit in range(10)}
    assert sum(sizes.values()) == 44
    assert "Too few items to tell (fewer than 20): small digit=0 (1)" in text


def test_operations_are_counted_from_the_bases_shape_and_the_tokens_trained(made: tuple[Site, Result]) -> None:
    """Against `count_flops` on the lengths of the rows themselves."""
    site, done = made
    recipe = site.recipe()
    shape = check_base(recipe, ModelSource(str(site.base), site.base, None, ""), world=1)
    train, _ = stores_of(site)
    lengths = train.lengths.tolist()
    squares = float(sum(length**2 for length in lengths))
    tokens = Tokens(float(sum(lengths)), float(train.trained_counts.sum()), squares, 0, 0)
    counted = done.finished.manifest.lineage["work"]
    assert counted["flops"] == pytest.approx(count_flops(recipe, shape, tokens).model, rel=1e-6)
    assert counted["weights"] == counted["trained_weights"] == shape.parameters.total
    text = card_of(version_of(done), workspace=site.workspace)
    assert f"{counted['flops']:.3g} operations" in text
    assert "12 W each" in text


def test_a_decision_made_later_is_in_it(made: tuple[Site, Result]) -> None:
    site, done = made
    assert "ann approved" not in card_of(version_of(done), workspace=site.workspace)
    approve(version_of(done), "ann", override="shown to be good elsewhere", workspace=site.workspace)
    assert "ann approved models:/small/1 WITHOUT A PASS: shown to be good elsewhere" in card_of(
        version_of(done), workspace=site.workspace
    )


def test_the_bill_of_materials_lists_the_files_of_the_artifact(made: tuple[Site, Result]) -> None:
    site, done = made
    record = validated(bom_of(version_of(done), workspace=site.workspace))
    files = {one["name"]: one["hashes"][0]["content"] for one in record["metadata"]["component"]["components"]}
    assert files["model.safetensors"] == file_digest(done.finished.artifact / "model.safetensors")
    beside = validated((done.finished.artifact / "bom.cdx.json").read_text())
    assert beside["metadata"]["component"]["hashes"] == record["metadata"]["component"]["hashes"]
    assert "## Licence chain" in (done.finished.artifact / "README.md").read_text()


def test_without_the_runs_folder_the_scores_stay(made: tuple[Site, Result]) -> None:
    site, done = made
    aside = done.finished.folder.rename(site.folder / "aside")
    try:
        read = ModelCard(card_of(version_of(done), workspace=site.workspace)).data
    finally:
        aside.rename(done.finished.folder)
    assert {one.metric_type for one in read.eval_results or ()} == {"bleu", "exact_match"}


def test_the_command_prints_and_writes(
    made: tuple[Site, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = made
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["models", "card", "small", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert call().startswith("---\nlibrary_name: transformers")
    said = call("--out", str(tmp_path / "card.md"), "--bom", str(tmp_path / "bom.json"))
    assert "next: llmops models lineage small/1" in said
    assert (tmp_path / "card.md").read_text().startswith("---\n")
    assert validated((tmp_path / "bom.json").read_text())["specVersion"] == "1.6"
    assert json.loads((tmp_path / "bom.json").read_text())["metadata"]["component"]["version"] == "1"


def test_without_any_record_of_the_run_there_is_no_card(made: tuple[Site, Result]) -> None:
    site, done = made
    gone = replace(version_of(done), tags={**version_of(done).tags, "llmops.run": "0" * 64}, run_id=None)
    with pytest.raises(EnvironmentFault, match="record of the run"):
        card_of(gone, workspace=site.workspace)
