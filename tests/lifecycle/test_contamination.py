"""How much of a suite a model was trained on is counted in the rows of its run, and of the runs it was made from."""

from __future__ import annotations

import shutil

import pytest

from llmops.config import load
from llmops.data.versions import load_version, rows_of, version_folder
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.suite import Suite
from llmops.lifecycle.contamination import contaminated_shares
from llmops.lifecycle.loop import Result
from llmops.records import ModelSource
from tests.lifecycle.sites import Site
from tests.lifecycle.small_recipes import write_rows
from tests.listener import Heard


def share(site: Site, model: ModelSource, heard: Heard | None = None) -> float:
    suite = load(site.folder / "suite.yaml", Suite, what="suite")
    return contaminated_shares(model, [suite], site.workspace, heard or Heard())["small"]


def model(result: Result) -> ModelSource:
    finished = result.finished
    return ModelSource("small", finished.artifact, None, finished.manifest.artifact_digest)


def test_its_own_rows_and_those_of_the_run_it_was_made_from_count(site: Site) -> None:
    first = site.run(site.recipe())
    folder = version_folder(site.workspace.objects, first.finished.manifest.identity["dataset"])
    trained = len(list(rows_of(load_version(folder), "train")))
    assert 0 < trained < 44
    heard = Heard()
    assert share(site, model(first), heard) == trained / 44
    assert any(line.startswith(f"gate: what {site.base} was trained on is not known") for line in heard.lines)

    other = write_rows(site.folder / "other.jsonl", [{"question": f"q {n}", "answer": f"a {n}"} for n in range(20)])
    data = {
        "train": [{"source": str(other), "prompt": "{question}", "completion": "{answer}"}],
        "validation": 0.2,
    }
    second = site.run(site.recipe(name="second", base="models:/small/1", data=data))
    assert share(site, model(second)) == trained / 44


def test_what_nobody_knows_is_no_zero(site: Site) -> None:
    with pytest.raises(InputError, match="no manifest of a run"):
        share(site, ModelSource("base", site.base, None, "d"))
    first = site.run(site.recipe())
    shutil.rmtree(version_folder(site.workspace.objects, first.finished.manifest.identity["dataset"]))
    with pytest.raises(EnvironmentFault, match="not in this workspace any more"):
        share(site, model(first))


def test_a_recipe_may_end_with_such_a_rule(site: Site) -> None:
    gate = site.folder / "gate.yaml"
    gate.write_text("rules:\n  - {suite: small, contaminated_at_most: 0.1}\n")
    result = site.run(site.recipe(evaluate={"suites": [f"{site.folder}/suite.yaml"], "gate": str(gate)}))
    assert result.verdict is not None
    assert result.verdict.result == "FAIL"
