"""The bill of materials is valid CycloneDX 1.6 whatever the names, and holds all a model was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.files import file_digest, folder_digest
from llmops.records import Report, Score
from llmops.registry.bom import NAME, bom, files_of, write_bom
from llmops.registry.card import CardFacts
from llmops.registry.licence_chain import Licensed
from tests.registry.artifacts import a_manifest, manifest_of, write_model

CHAIN = [
    Licensed("base", "org/base@main", "LicenseRef-llama3.1", "its model card"),
    Licensed("data", "hub:org/rows", "CC-BY-SA-4.0", "the recipe"),
]
LINEAGE = {
    "base_digest": "b" * 64,
    "dataset": "a" * 64,
    "code_version": "0.1.0",
    "sources": [
        {"source": "hub:org/rows", "digest": f"commit {'c' * 40} train", "rows": 3},
        {"source": "x.csv", "digest": "d" * 64, "rows": 1},
    ],
    "work": {"flops": 1e12, "formula": "6N", "weights": 10, "trained_weights": 10},
}


def validated(written: str) -> dict[str, Any]:
    """The document, once CycloneDX's own strict schema takes it."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(written)
    assert fault is None, str(fault)[:2000]
    return dict(json.loads(written))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_model(tmp_path / "artifact")


@pytest.fixture
def facts(artifact: Path) -> CardFacts:
    scores = (Score("bleu", 30.0, "", 29.0, 31.0),)
    slices = {"family=yes": (Score("bleu", 20.0, "", 19.0, 21.0),), "family=no": (Score("bleu", 31.0, "", None, None),)}
    report = Report("e2e", "m", "r", 100, scores, {}, None, "s", "m", slices, {"family=yes": 50, "family=no": 50})
    recipe = {"name": "e2e-nlg", "base": "org/base@main", "data": {"train": [{"source": "hub:org/rows"}]}}
    manifest = manifest_of(artifact, lineage=LINEAGE, recipe=recipe)
    return CardFacts(manifest, [report], CHAIN, reference="models:/e2e-nlg/3")


def test_the_model_with_its_files_licences_and_scores(artifact: Path, facts: CardFacts) -> None:
    record = validated(bom(facts, files_of(artifact)))
    model = record["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "e2e-nlg", "3")
    assert model["hashes"] == [{"alg": "SHA-256", "content": facts.manifest.artifact_digest}]
    files = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    assert files == {name: file_digest(artifact / name) for name in ("config.json", "model.safetensors")}
    assert model["licenses"] == [{"expression": "CC-BY-SA-4.0 AND LicenseRef-llama3.1"}]
    card = model["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"][0] == {
        "type": "e2e.bleu",
        "value": "30",
        "confidenceInterval": {"lowerBound": "29", "upperBound": "31"},
    }
    assert card["considerations"]["technicalLimitations"] == ["e2e family=yes: bleu 20 (19 to 21)"]
    assert {one["name"] for one in card["properties"]} >= {"llmops:training_flops", "llmops:training_tokens"}


def test_the_base_as_ancestor_and_the_data_as_components(artifact: Path, facts: CardFacts) -> None:
    record = validated(bom(facts, files_of(artifact)))
    model = record["metadata"]["component"]
    (ancestor,) = model["pedigree"]["ancestors"]
    assert (ancestor["name"], ancestor["purl"]) == ("org/base", f"pkg:huggingface/org/base@{'c' * 40}")
    by_ref = {one["bom-ref"]: one for one in record["components"]}
    assert by_ref["base"]["hashes"][0]["content"] == "b" * 64
    data = [by_ref[one["ref"]] for one in model["modelCard"]["modelParameters"]["datasets"]]
    assert [(one["name"], one["type"]) for one in data] == [("hub:org/rows", "data"), ("x.csv", "data")]
    assert data[0]["purl"] == f"pkg:huggingface/datasets/org/rows@{'c' * 40}"
    assert data[0]["licenses"] == [{"expression": "CC-BY-SA-4.0"}]
    assert data[1]["hashes"][0]["content"] == "d" * 64
    assert "licenses" not in data[1]
    (depends,) = [one for one in record["dependencies"] if one["ref"] == "model"]
    assert set(depends["dependsOn"]) == by_ref.keys()


def test_every_package_of_the_training_with_its_version(artifact: Path, facts: CardFacts) -> None:
    record = validated(bom(facts, {}))
    packages = {one["name"]: one["purl"] for one in record["components"] if one["type"] == "library"}
    assert packages == {"torch": "pkg:pypi/torch@2.13.0", "llmops": "pkg:pypi/llmops@0.1.0"}


def test_the_same_model_keeps_its_serial_number(artifact: Path, facts: CardFacts) -> None:
    one, two = (validated(bom(facts, {})) for _ in range(2))
    assert one["serialNumber"] == two["serialNumber"]
    one["metadata"].pop("timestamp"), two["metadata"].pop("timestamp")
    assert one == two


def test_it_lies_beside_the_card_and_is_no_part_of_the_artifact(artifact: Path, facts: CardFacts) -> None:
    before = folder_digest(artifact)
    path = write_bom(artifact, facts)
    assert path == artifact / NAME
    assert folder_digest(artifact) == before
    assert NAME not in files_of(artifact)
    validated(path.read_text())


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=25, deadline=None)
@given(name=NAMES, base=NAMES, source=NAMES, metric=NAMES)
def test_any_names_give_a_valid_document(name: str, base: str, source: str, metric: str) -> None:
    recipe = {"base": base, "data": {"train": [{"source": source}, {"source": source}]}}
    manifest = a_manifest(name=name, recipe=recipe, kind="full")
    report = Report(name, "m", "r", 1, (Score(metric, 1.0, ""), Score(metric, 1.0, "")), {})
    validated(bom(CardFacts(manifest, [report]), {}))
