"""A run made again from its record is bit-exact, equivalent within interval, or different with every reason named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.errors import EnvironmentFault, InputError
from llmops.files import digest_of, write_json
from llmops.lifecycle.loop import Result
from llmops.lifecycle.reproduce import Margin, Reproduction, reproduce
from llmops.lifecycle.run_again import Origin, find_run
from llmops.registry.store import versions
from tests.finetune.small_models import make_random_base
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import ROWS, write_rows
from tests.listener import Heard

# One worker, so that what all of them look at is trained once.
pytestmark = pytest.mark.xdist_group("reproduce")


@pytest.fixture(scope="module")
def first(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Result]:
    site = make_site(tmp_path_factory.mktemp("first"))
    return site, site.run(site.recipe(checkpoints={"every": 100}))


def again(site: Site, named: str | Path, *, heard: Heard | None = None, **more: Any) -> Reproduction:
    origin = find_run(str(named), workspace=site.workspace)
    return reproduce(origin, workspace=site.workspace, listener=heard or Heard(), **more)


def test_on_the_same_machine_the_same_bytes_come_out(first: tuple[Site, Result]) -> None:
    site, done = first
    heard = Heard()
    result = again(site, done.finished.folder, heard=heard)
    assert result.finding == "bit-exact"
    assert result.artifact == done.finished.manifest.artifact_digest
    assert (result.changed, result.because, result.notes) == ([], [], [])
    assert len(heard.steps) == done.finished.manifest.steps
    assert result.folder is not None
    assert result.folder != done.finished.folder
    assert json.loads((result.folder / "reproduction.json").read_text())["finding"] == "bit-exact"


def test_nothing_is_registered_by_it(first: tuple[Site, Result]) -> None:
    site, _ = first
    assert [one.version for one in versions("small", workspace=site.workspace)] == [1]


@pytest.mark.parametrize("how", ["folder", "digest", "name", "reference"])
def test_a_run_is_found_by_its_folder_its_digest_or_its_version(first: tuple[Site, Result], how: str) -> None:
    site, done = first
    manifest = done.finished.manifest
    named = {
        "folder": str(done.finished.folder),
        "digest": manifest.digest[:10],
        "name": "small/1",
        "reference": "models:/small/1",
    }[how]
    found = find_run(named, workspace=site.workspace)
    assert json.dumps(asdict(found.manifest)) == json.dumps(asdict(manifest))
    assert found.folder == done.finished.folder


@pytest.mark.parametrize("named", ["nothing", "abcdef", "models:/other/1", "models:/small/9", "."])
def test_what_is_no_run_is_refused(first: tuple[Site, Result], named: str) -> None:
    with pytest.raises(InputError):
        find_run(named, workspace=first[0].workspace)


def test_a_changed_source_is_named_and_the_kept_rows_are_used(
    make_site: Callable[[Path], Site], tmp_path: Path
) -> None:
    site = make_site(tmp_path)
    done = site.run(site.recipe(evaluate=None))
    write_rows(site.folder / "rows.jsonl", [{**ROWS[0], "answer": "it is 99"}, *ROWS[1:]])
    result = again(site, done.finished.folder)
    assert result.finding == "bit-exact"
    (note,) = result.notes
    assert f"the source {site.folder}/rows.jsonl changed: " in note
    # Once the kept rows are gone too, it cannot be that run any more, and nothing is trained to find that out.
    shutil.rmtree(site.workspace.objects / f"dataset-{done.finished.manifest.lineage['dataset'][:16]}")
    heard = Heard()
    result = again(site, done.finished.folder, heard=heard)
    assert result.finding == "different"
    assert any(line.startswith("data: ") for line in result.because)
    assert f"the source {site.folder}/rows.jsonl changed: " in result.notes[0]
    assert (heard.steps, result.folder) == ([], None)


def test_a_changed_base_is_named_before_anything_is_trained(make_site: Callable[[Path], Site], tmp_path: Path) -> None:
    site = make_site(tmp_path)
    shutil.copytree(site.base, site.folder / "mine")
    done = site.run(site.recipe(base=str(site.folder / "mine"), evaluate=None))
    shutil.rmtree(site.folder / "mine")
    make_random_base(site.folder / "mine", hidden=32)
    heard = Heard()
    result = again(site, done.finished.folder, heard=heard)
    assert result.finding == "different"
    assert [line.split(":")[0] for line in result.because] == ["base"]
    assert result.notes == [f"the base {site.folder / 'mine'} has other bytes than it had"]
    assert heard.steps == []


def test_a_base_of_the_registry_is_the_version_it_was_then(make_site: Callable[[Path], Site], tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.run(site.recipe(name="first", evaluate=None))
    adapter = {"kind": "lora", "rank": 4}
    done = site.run(site.recipe(base="models:/first@latest", adapter=adapter, evaluate=None))
    site.run(site.recipe(name="first", seed=6, evaluate=None))  # `latest` is another one now
    result = again(site, done.finished.folder)
    assert (result.finding, result.changed) == ("bit-exact", [])


def test_another_thread_count_is_named_and_judged_by_the_bytes(
    make_site: Callable[[Path], Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums come in another order with more threads, on a model wide enough that they are shared out."""
    site = make_site(tmp_path)
    make_random_base(site.folder / "wide", hidden=256)
    done = site.run(site.recipe(base=str(site.folder / "wide"), evaluate=None))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    try:
        result = again(site, done.finished.folder)
    finally:
        torch.set_num_threads(1)
    changed = {change.key: (change.first, change.second) for change in result.changed}
    assert changed == {"threads": (1, 2), "kernels.device": ("CPU, 1 threads", "CPU, 2 threads")}
    if result.artifact == done.finished.manifest.artifact_digest:  # a processor may add up alike all the same
        assert (result.finding, result.because) == ("bit-exact", [])
    else:
        assert result.finding == "different"
        assert "threads: 1 → 2" in result.because


def test_other_weights_are_different_and_say_what_changed(make_site: Callable[[Path], Site], tmp_path: Path) -> None:
    """The record is given other bytes to have left, so that what comes out cannot be them."""
    site = make_site(tmp_path)
    done = site.run(site.recipe(evaluate=None))
    other = site.run(site.recipe(seed=6, evaluate=None))
    origin = find_run(str(done.finished.folder), workspace=site.workspace)
    threads = {**origin.manifest.identity, "threads": 7}
    manifest = replace(origin.manifest, identity=threads, artifact_digest=other.finished.manifest.artifact_digest)
    result = reproduce(Origin(manifest, other.finished.folder), workspace=site.workspace, listener=Heard())
    assert result.finding == "different"
    assert result.because == ["threads: 7 → 1"]
    assert result.notes == ["the recipe measures nothing, so nothing shows whether the two are equivalent"]


def test_other_weights_that_answer_alike_are_equivalent_within_interval(
    make_site: Callable[[Path], Site], tmp_path: Path
) -> None:
    """Both answer every item wrong, so no difference is seen."""
    site = make_site(tmp_path)
    suite = site.folder / "suite.yaml"
    suite.write_text(suite.read_text().replace(", limit: 4", ""))
    done = site.run(site.recipe())
    other = site.run(site.recipe(seed=6))
    manifest = replace(done.finished.manifest, artifact_digest=other.finished.manifest.artifact_digest)
    result = reproduce(Origin(manifest, other.finished.folder), workspace=site.workspace, listener=Heard())
    assert (result.finding, result.because) == ("equivalent within interval", [])
    assert {one.metric for one in result.margins} == {"bleu", "exact_match"}
    assert all(one.low <= 0 <= one.high for one in result.margins)
    # The same interval is too wide for whoever allows less.
    asked = reproduce(
        Origin(manifest, other.finished.folder),
        workspace=site.workspace,
        listener=Heard(),
        out=tmp_path / "asked",
        margins={"small.exact_match": 0.01},
    )
    assert asked.finding == "different"
    assert "small.exact_match: 0 → 0: the interval is wider than allowed, or has no end" in asked.because


@pytest.mark.parametrize(
    ("low", "high", "shown", "allowed", "equivalent"),
    [
        pytest.param(-1, 1, False, None, True, id="no difference shown"),
        pytest.param(0.5, 1, True, None, False, id="a difference shown"),
        pytest.param(-1, 1, False, 1.0, True, id="within what is allowed"),
        pytest.param(-1, 1.1, False, 1.0, False, id="wider than allowed"),
        pytest.param(float("-inf"), float("inf"), False, None, False, id="too few items for an interval"),
    ],
)
def test_equivalent_means_a_finite_interval_without_a_difference(
    low: float, high: float, shown: bool, allowed: float | None, equivalent: bool
) -> None:
    assert Margin("s", "m", 1.0, 1.0, low, high, shown, allowed).equivalent is equivalent


def test_a_dry_run_says_what_changed_and_trains_nothing(
    first: tuple[Site, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, done = first
    heard = Heard()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    result = again(site, done.finished.folder, heard=heard, dry_run=True)
    assert result.finding == "not trained"
    assert {change.key for change in result.changed} == {"threads", "kernels.device"}
    assert "changed: threads: 1 → 2" in heard.lines
    assert heard.steps == []


def test_a_folder_that_holds_something_is_refused(first: tuple[Site, Result]) -> None:
    site, done = first
    with pytest.raises(InputError, match="is not empty"):
        again(site, done.finished.folder, out=site.folder)


def test_a_recipe_of_another_version_of_llmops_is_refused_by_name(first: tuple[Site, Result]) -> None:
    site, done = first
    manifest = replace(done.finished.manifest, recipe={**done.finished.manifest.recipe, "gone": 1})
    with pytest.raises(InputError, match=r"gone: Extra inputs"):
        reproduce(Origin(manifest, None), workspace=site.workspace, listener=Heard())


def test_a_run_whose_record_is_gone_says_so(make_site: Callable[[Path], Site], tmp_path: Path) -> None:
    site = make_site(tmp_path)
    unfinished = site.workspace.runs / "small-killed"
    unfinished.mkdir()
    write_json(unfinished / "identity.json", {"recipe": {"name": "small"}, "dataset": "d" * 64})
    with pytest.raises(EnvironmentFault, match="did not leave a manifest"):
        find_run(digest_of({"recipe": {"name": "small"}, "dataset": "d" * 64})[:12], workspace=site.workspace)


class TestTheCommand:
    def call(self, site: Site, *arguments: str) -> tuple[int, str]:
        done = CliRunner(env={"LLMOPS_HOME": str(site.workspace.home)}).invoke(app, ["reproduce", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    def test_says_it_in_one_line_and_ends_with_0(self, first: tuple[Site, Result], tmp_path: Path) -> None:
        site, done = first
        code, said = self.call(site, "small/1", "--out", str(tmp_path / "new"))
        assert code == 0
        assert f"small {done.finished.manifest.digest[:12]}: bit-exact" in said
        assert (tmp_path / "new" / "artifact" / "model.safetensors").is_file()

    def test_ends_with_3_and_the_reasons_where_it_is_different(
        self, make_site: Callable[[Path], Site], tmp_path: Path
    ) -> None:
        site = make_site(tmp_path)
        done = site.run(site.recipe(evaluate=None))
        write_rows(site.folder / "rows.jsonl", ROWS[1:])
        shutil.rmtree(site.workspace.objects / f"dataset-{done.finished.manifest.lineage['dataset'][:16]}")
        code, said = self.call(site, str(done.finished.folder), "--json")
        assert code == 3
        record = json.loads(said)
        assert record["finding"] == "different"
        assert record["because"][0].startswith("data: ")

    @pytest.mark.parametrize("margin", ["small.bleu", "small.bleu=x", "=1", "small.bleu=-1", "small.other=1"])
    def test_refuses_a_margin_that_is_none(self, first: tuple[Site, Result], margin: str) -> None:
        with pytest.raises(InputError):
            self.call(first[0], "small/1", "--margin", margin, "--dry-run")
