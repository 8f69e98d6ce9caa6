"""A card says what an artifact is and how to make it again, as valid metadata and Markdown whatever the names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmops.files import folder_digest
from llmops.records import Report, Score
from llmops.registry.card import CardFacts, card, write_card
from llmops.registry.licence_chain import Licensed
from tests.registry.artifacts import a_manifest, manifest_of, write_model


def metadata_of(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(front))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_model(tmp_path / "artifact", config="adapter_config.json")


def recipe(base: str, source: str, name: str = "m") -> dict[str, Any]:
    return {"name": name, "base": base, "data": {"train": [{"source": source}]}}


def test_the_metadata_is_what_the_hub_reads(artifact: Path) -> None:
    assert metadata_of(card(CardFacts(manifest_of(artifact)))) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "tags": ["llmops", "sft", "lora"],
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "base_model_revision": "c" * 40,
        "datasets": ["org/rows"],
    }


def test_the_licence_is_that_of_the_whole_chain(artifact: Path) -> None:
    chain = [Licensed("base", "org/base", "Apache-2.0", "its model card")]
    assert metadata_of(card(CardFacts(manifest_of(artifact), licences=chain)))["license"] == "apache-2.0"
    chain.append(Licensed("data", "rows.csv", "CC-BY-SA-4.0", "the recipe"))
    both = metadata_of(card(CardFacts(manifest_of(artifact), licences=chain)))
    assert (both["license"], both["license_name"]) == ("other", "Apache-2.0 AND CC-BY-SA-4.0")
    chain.append(Licensed("data", "more.csv", None, "nowhere"))
    text = card(CardFacts(manifest_of(artifact), licences=chain))
    assert metadata_of(text)["license"] == "unknown"
    assert "Not known: data more.csv." in text


@pytest.mark.parametrize("base", ["builtin:tiny", "models:/m@champion", "/models/mine"])
def test_a_base_that_is_not_the_hubs_is_named_in_the_text_only(artifact: Path, base: str) -> None:
    text = card(CardFacts(manifest_of(artifact, recipe=recipe(base, "rows.csv"), kind="full")))
    assert not {"base_model", "datasets"} & set(metadata_of(text))
    assert f"`{base}`" in text
    assert "`rows.csv`" in text
    assert metadata_of(text)["library_name"] == "transformers"


def test_scores_come_with_their_signature(artifact: Path) -> None:
    report = Report("e2e", "m", "d", 1630, (Score("bleu", 32.912, "nrefs:var|case:lc"),), {})
    text = card(CardFacts(manifest_of(artifact), [report]))
    assert "| e2e | 1,630 | bleu | 32.91 | not known |  | `nrefs:var\\|case:lc` |" in text
    assert "Not evaluated." in card(CardFacts(manifest_of(artifact)))


def test_it_holds_data_digest_losses_and_the_command_to_make_it_again(artifact: Path) -> None:
    manifest = manifest_of(artifact)
    text = card(CardFacts(manifest))
    assert f"| data digest | `{'a' * 64}` |" in text
    assert "| validation loss | 1.5000 nats per token |" in text
    assert "```sh\nllmops finetune recipe.yaml\n```" in text
    written = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(written) == manifest.recipe
    two = manifest_of(artifact, identity={"world": 2})
    assert "llmops finetune recipe.yaml --gpus 2" in card(CardFacts(two))


def test_credentials_stay_out(artifact: Path) -> None:
    manifest = manifest_of(artifact, recipe=recipe("org/base", "s3://key:secret@host/rows.csv"))
    text = card(CardFacts(manifest))
    assert "secret" not in text
    assert "s3://host/rows.csv" in text


@given(name=st.text(max_size=60), source=st.text(min_size=1, max_size=60))
def test_no_name_breaks_out_of_its_place(name: str, source: str) -> None:
    manifest = a_manifest(name=name, recipe=recipe("org/base", source, name), kind="full")
    text = card(CardFacts(manifest, [Report(name, source, "d", 1, (Score(source, 1.0, name),), {})]))
    assert metadata_of(text)["base_model"] == "org/base"
    body = text.split("---\n", 2)[2]
    title = body.strip().splitlines()[0]
    assert title.startswith("#")
    assert "<" not in title
    unescaped = [
        line.replace("\\\\", "").replace("\\|", "") for line in body.splitlines() if line.startswith("| data |")
    ]
    assert [line.count("|") for line in unescaped] == [3]
    scored = body.split("## Evaluation\n")[1].split("Intervals are")[0]
    assert len(scored.strip().splitlines()) == 3


def test_a_fence_inside_the_recipe_does_not_end_it(artifact: Path) -> None:
    given_recipe = recipe("org/base", "```\n# not a heading of the card\n```")
    text = card(CardFacts(manifest_of(artifact, recipe=given_recipe)))
    assert yaml.safe_load(text.split("````yaml\n")[1].split("````")[0]) == given_recipe


def test_writing_it_leaves_the_artifacts_digest_as_it_was(artifact: Path) -> None:
    before = folder_digest(artifact)
    path = write_card(artifact, CardFacts(manifest_of(artifact)))
    assert path == artifact / "README.md"
    assert path.read_text() == card(CardFacts(manifest_of(artifact)))
    assert folder_digest(artifact) == before


def test_the_recipe_to_make_it_again_states_the_licences_it_stated(artifact: Path) -> None:
    chain = [
        Licensed("data", "hub:org/rows", "CC-BY-4.0", "the recipe"),
        Licensed("data", "older.csv", "MIT", "the recipe", through="models:/m/1"),
    ]
    text = card(CardFacts(manifest_of(artifact), licences=chain))
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert written["data"]["train"] == [{"source": "hub:org/rows", "licence": "CC-BY-4.0"}]


@pytest.mark.parametrize(
    ("licence", "metadata"),
    [
        ("CC-BY-SA-4.0", {"license": "cc-by-sa-4.0"}),
        ("LicenseRef-llama3.1", {"license": "llama3.1"}),
        ("LicenseRef-own", {"license": "other", "license_name": "LicenseRef-own"}),
        ("0BSD", {"license": "other", "license_name": "0BSD"}),  # the hub has no name for it
    ],
)
def test_a_licence_is_spelt_as_the_hub_takes_it(artifact: Path, licence: str, metadata: dict[str, str]) -> None:
    found = metadata_of(card(CardFacts(manifest_of(artifact), licences=[Licensed("base", "b", licence, "here")])))
    assert {key: value for key, value in found.items() if key.startswith("license")} == metadata


def a_report(model: str, *scores: Score, items: int = 100, slices: Any = None, sizes: Any = None) -> Report:
    return Report("e2e", model, model, items, scores, {}, None, "s", model, slices or {}, sizes or {})


def test_the_hubs_own_library_reads_the_scores_with_their_intervals(artifact: Path) -> None:
    from huggingface_hub import ModelCard

    report = a_report("m", Score("bleu", 32.5, "sig", 31.0, 34.0), Score("ter", 0.4, "", 0.3, None, "lower"))
    facts = CardFacts(manifest_of(artifact), [report], [Licensed("base", "org/base", "MIT", "its model card")])
    read = ModelCard(card(facts)).data
    assert (read.license, read.base_model, read.datasets) == ("mit", "org/base", ["org/rows"])
    found = {one.metric_type: one for one in read.eval_results or ()}
    assert {name: one.metric_value for name, one in found.items()} == {"bleu": 32.5, "ter": 0.4}
    assert found["bleu"].metric_args == {"low": 31.0, "high": 34.0, "confidence": 0.95, "signature": "sig"}
    assert (found["bleu"].task_type, found["bleu"].dataset_name) == ("text-generation", "e2e")


def test_the_bases_score_stands_beside_it_and_not_among_its_own(artifact: Path) -> None:
    manifest = manifest_of(artifact, lineage={"base_digest": "base"})
    reports = [a_report("base", Score("bleu", 10.0, "")), a_report("m", Score("bleu", 32.5, "", 31.0, 34.0))]
    text = card(CardFacts(manifest, reports))
    assert "| e2e | 100 | bleu | 32.5 | 31 to 34 | 10 |  |" in text
    (model,) = metadata_of(text)["model-index"]
    assert [one["metrics"][0]["value"] for one in model["results"]] == [32.5]


def limits_of(text: str) -> str:
    return text.split("## Limitations\n")[1].split("## Data\n")[0]


@pytest.mark.parametrize(
    ("better", "low", "high", "named"),
    [
        pytest.param("higher", 20, 29, True, id="wholly below"),
        pytest.param("higher", 20, 30, False, id="touching the value over all"),
        pytest.param("higher", 31, 40, False, id="above"),
        pytest.param("higher", None, 29, True, id="open on the far side"),
        pytest.param("higher", 20, None, False, id="open on the near side"),
        pytest.param("lower", 31, 40, True, id="wholly above, where less is better"),
        pytest.param("lower", 20, 29, False, id="below, where less is better"),
    ],
)
def test_a_slice_is_a_limitation_when_its_whole_interval_is_worse(
    artifact: Path, better: Any, low: float | None, high: float | None, named: bool
) -> None:
    part = Score("bleu", 25.0, "", low, high, better)
    report = a_report("m", Score("bleu", 30.0, "", 29, 31, better), slices={"a=b": (part,)}, sizes={"a=b": 50})
    said = limits_of(card(CardFacts(manifest_of(artifact), [report])))
    assert ("| e2e | a=b | 50 | bleu | 25 |" in said) is named
    assert "1 scores of slices were looked at" in said


def test_a_slice_of_few_items_is_said_to_be_too_small(artifact: Path) -> None:
    part = (Score("bleu", 1.0, "", 0.0, 2.0),)
    report = a_report("m", Score("bleu", 30.0, ""), slices={"a=b": part, "a=c": part}, sizes={"a=b": 19, "a=c": 20})
    said = limits_of(card(CardFacts(manifest_of(artifact), [report])))
    assert "Too few items to tell (fewer than 20): e2e a=b (19)." in said
    assert "| e2e | a=c | 20 |" in said
    assert "nothing is known of groups" in limits_of(card(CardFacts(manifest_of(artifact))))
