"""Two versions are told apart by all they were made of, and their scores stand side by side with both intervals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.lifecycle.evidence import own_reports, reports_of
from llmops.lifecycle.loop import Result
from llmops.lifecycle.version_diff import changes, leaves, version_diff
from llmops.records import Report
from llmops.registry.store import ModelVersion
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import ROWS, write_rows

# One worker, so that what all of them look at is trained once.
pytestmark = pytest.mark.xdist_group("version-diff")


def version_of(result: Result) -> ModelVersion:
    assert result.version is not None
    return result.version


@pytest.fixture(scope="module")
def pair(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Result, Result]:
    """The same recipe twice, the second time at another rate, with one row less and two more."""
    site = make_site(tmp_path_factory.mktemp("pair"))
    first = site.run(site.recipe())
    more = [{"question": f"who is {number}?", "answer": "nobody"} for number in (1, 2)]
    (site.folder / "suite-rows.jsonl").write_text((site.folder / "rows.jsonl").read_text())
    text = (site.folder / "suite.yaml").read_text().replace("/rows.jsonl", "/suite-rows.jsonl")
    (site.folder / "suite.yaml").write_text(text)
    write_rows(site.folder / "rows.jsonl", [*ROWS[1:], *more])
    return site, first, site.run(site.recipe(optimizer={"learning_rate": 2e-3}))


def test_it_names_recipe_keys_and_rows_that_differ_and_nothing_else(pair: tuple[Site, Result, Result]) -> None:
    site, first, second = pair
    found = version_diff(version_of(first), version_of(second), workspace=site.workspace)
    assert [(one.key, one.first, one.second) for one in found.recipe] == [("optimizer.learning_rate", 1e-3, 2e-3)]
    assert [one.key for one in found.data] == ["digest", f"sources.{site.folder}/rows.jsonl"]
    assert found.rows is not None
    assert (found.rows.added, found.rows.removed, found.rows.unchanged) == (2, 1, len(ROWS) - 1)
    assert (found.base, found.environment, found.unrecorded, found.rows_gone) == ([], [], [], [])


def test_scores_are_those_of_the_reports_with_their_intervals(pair: tuple[Site, Result, Result]) -> None:
    site, first, second = pair
    found = version_diff(version_of(first), version_of(second), workspace=site.workspace)
    assert [one.metric for one in found.scores] == ["bleu", "exact_match"]
    for place, score in enumerate(found.scores):
        assert score.first == first.reports[1].scores[place]
        assert score.second == second.reports[1].scores[place]
        # The first recipe read its items from another file, but they are the same items.
        assert score.same_items is (first.reports[1].suite_digest == second.reports[1].suite_digest)


def test_a_version_does_not_differ_from_itself(pair: tuple[Site, Result, Result]) -> None:
    site, first, _ = pair
    found = version_diff(version_of(first), version_of(first), workspace=site.workspace)
    assert not [*found.recipe, *found.data, *found.base, *found.environment]
    assert all(one.first == one.second and one.same_items for one in found.scores)


def test_the_registry_alone_still_has_values_and_intervals(pair: tuple[Site, Result, Result]) -> None:
    site, first, _ = pair
    version = version_of(first)
    with_files = own_reports(reports_of(version, first.finished.manifest, site.workspace), version)
    aside = first.finished.folder.rename(site.folder / "aside")
    try:
        without = own_reports(reports_of(version, first.finished.manifest, site.workspace), version)
    finally:
        aside.rename(first.finished.folder)

    def numbers(reports: list[Report]) -> list[tuple[str, str, float, float | None, float | None]]:
        return [(one.suite, s.metric, s.value, s.low, s.high) for one in reports for s in one.scores]

    assert numbers(without) == numbers(with_files)
    assert numbers(with_files)


def test_the_command_shows_it_and_says_when_rows_are_gone(
    pair: tuple[Site, Result, Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site, first, _ = pair
    monkeypatch.setenv("LLMOPS_HOME", str(site.workspace.home))

    def call(*more: str) -> str:
        done = CliRunner().invoke(app, ["models", "diff", "small/1", "small/2", *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    shown = call()
    assert "optimizer.learning_rate: 0.001 → 0.002" in shown
    assert f"2 added, 1 removed, 0 moved, {len(ROWS) - 1} unchanged" in shown
    assert "score        small.bleu: " in shown
    assert json.loads(call("--json"))["rows"]["removed"] == 1
    dataset = str(first.finished.manifest.lineage["dataset"])
    folder = site.workspace.objects / f"dataset-{dataset[:16]}"
    shutil.move(folder, tmp_path / "aside")
    try:
        assert f"dataset {dataset[:12]} was deleted" in call()
    finally:
        shutil.move(tmp_path / "aside", folder)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
NESTED = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@given(one=NESTED, two=NESTED)
def test_changes_are_the_leaves_in_which_they_differ(one: dict[str, object], two: dict[str, object]) -> None:
    found = {change.key: (change.first, change.second) for change in changes(one, two)}
    before, after = dict(leaves(one)), dict(leaves(two))
    assert found == {
        key: (before.get(key), after.get(key)) for key in before | after if before.get(key) != after.get(key)
    }
    assert not list(changes(one, one))
