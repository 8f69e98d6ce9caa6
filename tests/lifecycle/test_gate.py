"""A run ends with its gate's verdict, against the version the gate names, and asked again it is the same verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmops.cli import evaluate
from llmops.database import open_database
from llmops.errors import InputError
from llmops.files import digest_of
from llmops.lifecycle.loop import Result
from llmops.registry import promote
from llmops.registry.verdicts import verdicts_of
from tests.lifecycle.sites import Site
from tests.listener import Heard


def gated(site: Site, *rules: str, against: str = "champion", **changes: Any) -> Any:
    gate = site.folder / "gate.yaml"
    gate.write_text(f"against: {against}\nrules:\n" + "".join(f"  - {{suite: small, {rule}}}\n" for rule in rules))
    return site.recipe(evaluate={"suites": [f"{site.folder}/suite.yaml"], "gate": str(gate)}, **changes)


def champion(site: Site, result: Result) -> None:
    assert result.version is not None
    promote.approve(result.version, "another person", workspace=site.workspace)
    promote.promote(result.version, "another person", workspace=site.workspace)


def test_a_first_version_is_judged_by_its_fixed_bounds(site: Site) -> None:
    heard = Heard()
    result = site.run(gated(site, "metric: bleu, at_least: 0", "metric: bleu, no_worse_by: 1"), heard=heard)
    assert result.verdict is not None
    assert result.verdict.result == "PASS"
    assert result.verdict.model_digest == result.finished.manifest.artifact_digest
    assert "gate: small has no version `champion` yet: only the rules with a fixed bound count" in heard.lines
    written = json.loads((result.finished.folder / "report" / "verdict.json").read_text())
    assert written.pop("digest") == result.verdict.digest == digest_of(written)


def test_the_next_one_is_compared_with_the_champion_on_the_same_items(site: Site) -> None:
    champion(site, site.run(gated(site, "metric: exact_match, at_least: 0")))
    heard = Heard()
    recipe = gated(site, "metric: exact_match, no_worse_by: 0.9", "metric: exact_match, better_by: 0.5", seed=6)
    result = site.run(recipe, heard=heard)
    assert result.verdict is not None
    assert result.verdict.against == "models:/small/1"
    assert len(result.verdict.reports) == 2
    # Four items that nobody answers rightly: Newcombe's interval of no difference in four is wider than any margin.
    assert result.verdict.result == "INCONCLUSIVE"
    assert "gate: models:/small/1 answers small, to be compared with" in heard.lines
    later = Heard()
    again = site.run(recipe, heard=later)
    assert again.verdict == result.verdict
    assert not [line for line in later.lines if "answers" in line], "nothing is asked twice"


def test_a_verdict_changed_in_its_file_is_refused_until_it_is_judged_again(site: Site) -> None:
    recipe = gated(site, "metric: exact_match, at_least: 1")
    first = site.run(recipe)
    assert first.verdict is not None
    assert first.verdict.result == "FAIL"
    (file,) = (first.finished.folder / "report").glob("verdict-*.json")
    file.write_text(file.read_text().replace('"FAIL"', '"PASS"'))
    with pytest.raises(InputError, match="was changed after it was written") as refused:
        site.run(recipe)
    assert str(file) in refused.value.problem
    file.unlink()
    assert site.run(recipe).verdict == first.verdict


def test_a_failed_gate_is_told_and_the_version_is_registered_all_the_same(site: Site) -> None:
    result = site.run(gated(site, "metric: bleu, at_least: 0", "measure: items_per_s, at_most: 0.001"))
    assert result.verdict is not None
    assert result.verdict.result == "FAIL"
    assert result.version is not None


def test_the_champion_itself_trained_again_has_nothing_to_be_compared_with(site: Site, tmp_path: Path) -> None:
    recipe = gated(site, "metric: bleu, better_by: 90")
    champion(site, site.run(recipe))
    heard = Heard()
    result = site.run(recipe, out=tmp_path / "again", heard=heard)
    assert result.verdict is not None
    assert result.verdict.against is None
    assert any("is this very artifact" in line for line in heard.lines)


def test_an_alias_set_without_a_decision_spares_no_comparison(site: Site, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    recipe = gated(site, "metric: bleu, better_by: 90")
    first = site.run(recipe)
    assert first.version is not None
    client = MlflowClient(tracking_uri=site.workspace.tracking_uri)
    client.set_registered_model_alias("small", "champion", "1")
    heard = Heard()
    assert site.run(recipe, out=tmp_path / "again", heard=heard).verdict is None
    assert any("gate: no verdict: champion of small is this very artifact" in line for line in heard.lines)
    # And one that was moved away from the decided champion does not change what a successor is compared with.
    champion(site, first)
    second = site.run(gated(site, "metric: bleu, better_by: 90", seed=6))
    assert second.version is not None
    client.set_registered_model_alias("small", "champion", "2")
    third = site.run(gated(site, "metric: bleu, better_by: 90", seed=7))
    assert third.verdict is not None
    assert third.verdict.against == "models:/small/1"


def test_a_version_judged_later_keeps_its_verdict(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))
    failed = site.run(gated(site, "metric: bleu, at_least: 0", "measure: items_per_s, at_most: 0.001"))
    assert failed.version is not None
    with pytest.raises(InputError, match="the newest verdict on models:/small/1 is FAIL"):
        promote.approve(failed.version, "another person", workspace=site.workspace)
    gate = site.folder / "lenient.yaml"
    gate.write_text("against: champion\nrules:\n  - {suite: small, metric: bleu, no_worse_by: 1}\n")

    def judged(*options: str) -> str:
        """The last line that was told."""
        app = typer.Typer()
        evaluate.register(app)
        arguments = ["models:/small/1", f"{site.folder}/suite.yaml", "--gate", str(gate), *options]
        told = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert told.exit_code == 0
        return told.stdout.splitlines()[-1]

    for in_part in (["--limit", "3"], ["--against", "none"]):
        assert judged(*in_part).startswith("next: llmops compare ")
        with pytest.raises(InputError, match="is FAIL"):
            promote.approve(failed.version, "another person", workspace=site.workspace)
    assert judged() == "next: llmops models approve models:/small/1 --as SOMEBODY-ELSE"
    made = promote.approve(failed.version, "another person", workspace=site.workspace)
    assert made.verdict == verdicts_of(open_database(site.workspace), str(failed.version.digest))[-1].digest


def test_a_registry_that_is_away_gives_no_verdict(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    heard = Heard()
    result = site.run(gated(site, "metric: bleu, at_least: 0"), heard=heard)
    assert result.verdict is None
    assert any(line.startswith("gate: no verdict:") for line in heard.lines)


def test_a_gate_that_asks_for_what_is_not_measured_stops_before_training(site: Site) -> None:
    heard = Heard()
    with pytest.raises(InputError, match="did you mean `bleu`"):
        site.run(gated(site, "metric: bleuu, at_least: 0"), heard=heard)
    assert not heard.steps
