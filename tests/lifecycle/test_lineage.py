"""Lineage leads from a version back to its first base and its rows, and from a row forward to all that saw it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmops.cli.main import app
from llmops.data.membership import places, with_id, with_text
from llmops.data.versions import load_version, rows_of, version_folder
from llmops.errors import InputError
from llmops.files import file_digest, folder_digest
from llmops.finetune.merge import merge
from llmops.lifecycle.lineage import lineage_of, plain, who_saw
from llmops.lifecycle.loop import Result
from llmops.records import RunManifest
from llmops.registry.run_records import runs_of
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import ROWS, write_rows

# One worker, so that what all of them look at is trained once.
pytestmark = pytest.mark.xdist_group("lineage")

TEXTS = [{"body": f"{row['question']} {row['answer']}."} for row in ROWS]


@dataclass(frozen=True)
class Line:
    """`domain` trained on texts, `small` an adapter on it trained on rows, `merged` the folder of the two."""

    site: Site
    domain: Result
    small: Result
    merged: Path

    def record(self, result: Result) -> dict[str, Any]:
        assert result.version is not None
        return plain(lineage_of(result.version, workspace=self.site.workspace))


@pytest.fixture(scope="module")
def line(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    site = make_site(tmp_path_factory.mktemp("line"))
    write_rows(site.folder / "texts.jsonl", TEXTS)
    texts = {"train": [{"source": f"{site.folder}/texts.jsonl", "text": "body"}]}
    domain = site.run(site.recipe(name="domain", data=texts, evaluate=None))
    adapter = {"kind": "lora", "rank": 4, "alpha": 8}
    small = site.run(
        site.recipe(base="models:/domain@latest", adapter=adapter, evaluate=None, optimizer={"learning_rate": 0.05})
    )
    merged = merge(
        small.finished.artifact, base=domain.finished.artifact, out=small.finished.folder / "merged", dtype="fp32"
    ).out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMOPS_HOME", str(site.workspace.home))
        yield Line(site, domain, small, merged)


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


class TestBackwards:
    def test_to_the_run_with_all_that_made_it(self, line: Line) -> None:
        record = line.record(line.small)
        manifest = line.small.finished.manifest
        assert record["reference"] == "models:/small/1"
        assert record["run"]["digest"] == manifest.digest
        assert record["run"]["folder"] == str(line.small.finished.folder)
        assert record["run"]["folder_is_there"]
        assert record["run"]["mlflow"] == json.loads((line.small.finished.folder / "mlflow.json").read_text())["run_id"]
        assert record["recipe"] == json.loads((line.small.finished.folder / "recipe.json").read_text())
        assert record["tokenizer"] == file_digest(line.site.base / "tokenizer.json")
        assert (record["world"], record["threads"]) == (1, 1)
        assert record["environment"]["torch"] == manifest.environment["torch"]
        assert record["code_version"]

    def test_to_the_rows_and_their_sources(self, line: Line) -> None:
        data = line.record(line.small)["data"]
        assert data["is_there"]
        assert data["rows"]["train"] + data["rows"]["validation"] == len(ROWS)
        (source,) = data["sources"]
        assert source["source"] == f"{line.site.folder}/rows.jsonl"
        assert source["digest"] == file_digest(line.site.folder / "rows.jsonl")
        assert data["validation"] == 0.2
        # Of the base's base, of the rows the base was made of, and of its own rows.
        licences = [(one["role"], one["licence"]) for one in line.record(line.small)["licences"]]
        assert licences == [("base", "Apache-2.0"), ("data", None), ("data", "CC0-1.0")]

    def test_to_the_base_and_on_to_what_the_base_was_made_of(self, line: Line) -> None:
        record = line.record(line.small)
        assert record["base"]["version"] == "models:/domain/1"
        assert record["base"]["digest"] == line.domain.finished.manifest.artifact_digest
        (above,) = record["ancestors"]
        assert above["reference"] == "models:/domain/1"
        assert above["base"]["reference"] == str(line.site.base)
        assert above["base"]["digest"] == folder_digest(line.site.base)
        assert above["base"]["version"] is None


class TestForwards:
    def test_to_versions_and_folders_made_from_it(self, line: Line) -> None:
        record = line.record(line.domain)
        (made,) = record["made"]
        assert (made["reference"], made["relation"]) == ("models:/small/1", "trained from")
        assert record["derived"] == [{"folder": str(line.merged), "relation": "an adapter merged into it"}]
        assert line.record(line.small)["derived"] == [
            {"folder": str(line.merged), "relation": "merged from it and its base"}
        ]

    def test_to_what_was_decided(self, line: Line) -> None:
        assert [one["kind"] for one in line.record(line.domain)["decisions"]] == ["register"]


class TestARowLeads:
    def test_to_the_versions_trained_on_it_and_to_those_made_of_them(self, line: Line) -> None:
        dataset = load_version(dataset_of(line.site, line.domain.finished.manifest))
        row = next(iter(rows_of(dataset, "train")))
        saw = who_saw(with_id(row.id[:12]), workspace=line.site.workspace)
        assert [(one.version, one.split, one.id, one.line) for one in saw.places] == [
            (dataset.digest[:16], "train", row.id, row.line)
        ]
        assert [(one.name, one.folder) for one in saw.runs] == [("domain", str(line.domain.finished.folder))]
        assert [one.reference for one in saw.models] == ["models:/domain/1"]
        assert [one.version.reference for one in saw.made] == ["models:/small/1"]
        assert [one.folder for one in saw.derived] == [line.merged]
        assert saw.deleted == []
        assert saw.searched == 2

    def test_by_words_of_it_on_either_side_of_the_split(self, line: Line) -> None:
        splits = set()
        for row in ROWS[:12]:
            found = places(line.site.workspace.objects, with_text(row["question"]))
            (place,) = [one for one in found if one.source.endswith("rows.jsonl")]
            assert ROWS[place.line - 1] == row
            splits.add(place.split)
        assert splits == {"train", "validation"}

    def test_nowhere_where_no_version_holds_it(self, line: Line) -> None:
        saw = who_saw(with_text("never written"), workspace=line.site.workspace)
        assert (saw.places, saw.runs, saw.models, saw.made) == ([], [], [], ())

    def test_to_a_run_that_was_never_finished_and_lies_elsewhere(
        self, make_site: Callable[[Path], Site], tmp_path: Path
    ) -> None:
        site = make_site(tmp_path / "site")
        done = site.run(site.recipe(evaluate=None), out=tmp_path / "elsewhere").finished
        (run,) = runs_of(site.workspace)
        assert (run.folder, run.digest, run.finished) == (str(tmp_path / "elsewhere"), done.manifest.digest, True)
        unfinished = site.workspace.runs / "small-killed"
        unfinished.mkdir()
        identity = json.loads((done.folder / "identity.json").read_text())
        identity["recipe"]["seed"] = 99
        (unfinished / "identity.json").write_text(json.dumps(identity))
        saw = who_saw(with_text("what is 3?"), workspace=site.workspace)
        assert sorted((run.folder, run.finished) for run in saw.runs) == [
            (str(tmp_path / "elsewhere"), True),
            (str(unfinished), False),
        ]


def test_deleted_rows_are_said_to_be_gone(make_site: Callable[[Path], Site], tmp_path: Path) -> None:
    site = make_site(tmp_path)
    done = site.run(site.recipe(evaluate=None))
    dataset = done.finished.manifest.lineage["dataset"]
    shutil.rmtree(site.workspace.objects / f"dataset-{dataset[:16]}")
    saw = who_saw(with_text("what is 3?"), workspace=site.workspace)
    assert (saw.places, saw.deleted, saw.searched) == ([], [dataset], 0)
    assert done.version is not None
    record = plain(lineage_of(done.version, workspace=site.workspace))
    assert not record["data"]["is_there"]
    assert record["data"]["digest"] == dataset
    # The sources and their digests stay known.
    assert record["data"]["sources"][0]["rows"] == len(ROWS)


def test_a_run_whose_folder_went_is_still_known_by_what_was_kept(
    make_site: Callable[[Path], Site], tmp_path: Path
) -> None:
    site = make_site(tmp_path)
    done = site.run(site.recipe(evaluate=None))
    assert done.version is not None
    shutil.rmtree(done.finished.folder)
    record = plain(lineage_of(done.version, workspace=site.workspace))
    assert record["run"]["recorded"]
    assert not record["run"]["folder_is_there"]
    # The bytes go too, and with them the manifest beside them: MLflow has another.
    shutil.rmtree(site.workspace.objects / "models")
    record = plain(lineage_of(done.version, workspace=site.workspace))
    assert record["recipe"]["seed"] == 5
    assert record["tokenizer"] is None


def test_a_model_made_from_a_merged_folder_is_reached_through_it(
    make_site: Callable[[Path], Site], tmp_path: Path
) -> None:
    """Nobody registered the merged folder, and yet the rows of its adapter are in what was trained from it."""
    site = make_site(tmp_path)
    adapter = {"kind": "lora", "rank": 4, "alpha": 8}
    first = site.run(
        site.recipe(name="first", adapter=adapter, evaluate=None, optimizer={"learning_rate": 0.05})
    ).finished
    merged = merge(first.artifact, base=site.base, out=first.folder / "merged", dtype="fp32").out
    write_rows(site.folder / "texts.jsonl", TEXTS)
    texts = {"train": [{"source": f"{site.folder}/texts.jsonl", "text": "body"}]}
    last = site.run(site.recipe(name="last", base=str(merged), data=texts, evaluate=None))
    saw = who_saw(with_text("what is 3?"), workspace=site.workspace)
    assert [one.reference for one in saw.models] == ["models:/first/1", "models:/last/1"]  # `last` has it in a text too
    saw = who_saw(
        with_id(next(iter(rows_of(load_version(dataset_of(site, first.manifest)), "train"))).id),
        workspace=site.workspace,
    )
    assert [one.reference for one in saw.models] == ["models:/first/1"]
    assert [one.version.reference for one in saw.made] == ["models:/last/1"]
    assert last.version is not None
    (above,) = plain(lineage_of(last.version, workspace=site.workspace))["ancestors"]
    assert above["reference"] == "models:/first/1"


def dataset_of(site: Site, manifest: RunManifest) -> Path:
    return version_folder(site.workspace.objects, manifest.lineage["dataset"])


class TestTheCommands:
    def test_show_the_tree(self, line: Line) -> None:
        shown = call("models", "lineage", "small")
        for words in (
            "models:/small/1",
            "models:/domain/1",
            "rows.jsonl",
            "0.2 of the prompts",
            "decision",
            "torch ",
            "licences     Apache-2.0, unknown, CC0-1.0",
        ):
            assert words in shown
        assert shown.splitlines()[-1] == "next: llmops models card small/1"
        assert "trained from: models:/small/1" in call("models", "lineage", "models:/domain@latest")

    def test_give_json(self, line: Line) -> None:
        assert json.loads(call("models", "lineage", "small", "--json")) == line.record(line.small)
        found = json.loads(call("data", "who-saw", "--text", "it is 7", "--json"))
        assert found["models"] == ["models:/domain/1", "models:/small/1"]

    def test_say_who_saw_a_row(self, line: Line) -> None:
        shown = call("data", "who-saw", "--text", "what is 3? it is 8.")
        assert "1 row(s) in 1 of 2 dataset versions" in shown
        assert "model models:/domain/1" in shown
        assert "trained from: models:/small/1" in shown

    @pytest.mark.parametrize(
        "arguments", [[], ["abcdef", "--text", "x"], ["xyz"], ["abc"], ["--text", " "]], ids=lambda one: " ".join(one)
    )
    def test_refuse_what_names_no_row(self, line: Line, arguments: list[str]) -> None:
        with pytest.raises(InputError):
            CliRunner().invoke(app, ["data", "who-saw", *arguments], catch_exceptions=False)
