"""`finetune` with a preference method: from conversational rows as feedback exports them to a registered version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import InputError
from llmops.finetune.job import read_steps
from llmops.finetune.recipe import Recipe
from llmops.lifecycle.loop import Result
from tests.finetune.small_preferences import LABELLED, PAIRS, some_labelled, some_pairs
from tests.lifecycle.sites import Site
from tests.listener import Heard


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def export_of(kind: str, path: Path) -> Path:
    """Rows as `llmops feedback export` writes them, with what stands beside."""
    with path.open("w") as file:
        for row in some_labelled(60, 7) if kind == "kto" else some_pairs(60, 7):
            line: dict[str, Any] = {"prompt": row.content["messages"], "margin": 1.0, "raters": 3}
            for key in ("chosen", "rejected", "completion"):
                if key in row.content:
                    line[key] = turn("assistant", row.content[key])
            if "label" in row.content:
                line["label"] = row.content["label"]
            file.write(json.dumps(line) + "\n")
    return path


def recipe_of(site: Site, kind: str, **changes: Any) -> Recipe:
    rows = {**(LABELLED if kind == "kto" else PAIRS), "source": str(export_of(kind, site.folder / f"{kind}.jsonl"))}
    common: dict[str, Any] = {
        "name": f"small-{kind}",
        "data": {"train": [rows], "validation": 0.2, "checks": {"near_duplicates": "keep"}},
        "method": {"kind": kind},
        "adapter": {"kind": "lora", "rank": 8},
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"epochs": 4},
        "evaluate": None,
    }
    return site.recipe(**(common | changes))


@pytest.fixture(scope="module")
def site(make_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("preferences"))


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def preferred(site: Site, heard: Heard) -> Result:
    return site.run(recipe_of(site, "dpo"), heard=heard)


def references(site: Site) -> dict[Path, tuple[int, bytes]]:
    files = (site.workspace.cache / "tokens").glob("*/reference-*/*.safetensors")
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_held_out_accuracy_rises_over_chance_and_is_told_everywhere(preferred: Result, heard: Heard) -> None:
    manifest = preferred.finished.manifest
    told = manifest.validation_measures
    assert told.keys() == {"accuracy", "margin", "chosen_reward", "rejected_reward", "kl_k3_per_token"}
    assert told["accuracy"] >= 0.8
    assert manifest.loss_unit == "per pair"
    first, *_, last = read_steps(preferred.finished.folder)
    assert first.loss == pytest.approx(0.693147, abs=1e-5)
    assert last.validation_measures
    assert heard.steps[-1].validation_measures == last.validation_measures
    card = (preferred.finished.artifact / "README.md").read_text()
    assert f"| validation accuracy | {told['accuracy']:.4f} |" in card
    assert "| method | dpo |" in card


def test_the_measures_are_in_mlflow_update_by_update(site: Site, preferred: Result) -> None:
    from mlflow.tracking import MlflowClient

    assert preferred.version is not None
    client = MlflowClient(f"sqlite:///{site.workspace.home / 'mlflow.db'}")
    (run_id,) = {
        version.run_id for version in client.search_model_versions("name='small-dpo'") if version.run_id is not None
    }
    steps = list(read_steps(preferred.finished.folder))
    assert len(client.get_metric_history(run_id, "accuracy")) == len(steps)
    recorded = client.get_metric_history(run_id, "validation_accuracy")
    assert [one.value for one in recorded] == [
        step.validation_measures["accuracy"] for step in steps if step.validation_measures
    ]


def test_the_reference_is_kept_with_the_tokens_and_read_by_the_next_run(site: Site, preferred: Result) -> None:
    before = references(site)
    assert {file.name for file in before} == {"train.safetensors", "validation.safetensors"}
    other = site.run(recipe_of(site, "dpo", method={"kind": "dpo", "beta": 0.3}, schedule={"steps": 2}))
    assert other.finished.folder != preferred.finished.folder
    assert references(site) == before
    again = site.run(recipe_of(site, "dpo"))
    assert again.finished.cached
    assert again.finished.manifest == preferred.finished.manifest


def test_the_method_is_part_of_who_a_run_is(site: Site, preferred: Result) -> None:
    odds = site.run(recipe_of(site, "orpo", data=recipe_of(site, "dpo").data, schedule={"steps": 2}))
    assert odds.finished.manifest.identity["tokens"] == preferred.finished.manifest.identity["tokens"]
    assert odds.finished.manifest.digest != preferred.finished.manifest.digest
    with pytest.raises(InputError, match=r"recipe\.method\.beta: 0\.1 → 0\.2"):
        site.run(recipe_of(site, "dpo", method={"kind": "dpo", "beta": 0.2}), out=preferred.finished.folder)


def test_thumbs_train_too(site: Site) -> None:
    result = site.run(recipe_of(site, "kto"))
    told = result.finished.manifest.validation_measures
    assert told["accuracy"] >= 0.7
    assert told["margin"] > 0
    assert "reference_point" in told
