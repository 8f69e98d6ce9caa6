"""A card says what an artifact is and how to make it again, as valid metadata and Markdown whatever the names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmops.files import folder_digest
from llmops.records import Report, RunManifest, Score
from llmops.registry.card import card, write_card

WriteModel = Callable[..., Path]
ManifestOf = Callable[..., RunManifest]


def metadata_of(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(front))


@pytest.fixture
def artifact(tmp_path: Path, write_model: WriteModel) -> Path:
    return write_model(tmp_path / "artifact", config="adapter_config.json")


def recipe(base: str, source: str, name: str = "m") -> dict[str, Any]:
    return {"name": name, "base": base, "data": {"train": [{"source": source}]}}


def test_the_metadata_is_what_the_hub_reads(artifact: Path, manifest_of: ManifestOf) -> None:
    assert metadata_of(card(manifest_of(artifact))) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "tags": ["llmops", "sft", "lora"],
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "base_model_revision": "c" * 40,
        "datasets": ["org/rows"],
    }


def test_the_licence_is_the_one_given(artifact: Path, manifest_of: ManifestOf) -> None:
    assert metadata_of(card(manifest_of(artifact), licence="apache-2.0"))["license"] == "apache-2.0"


@pytest.mark.parametrize("base", ["builtin:tiny", "models:/m@champion", "/models/mine"])
def test_a_base_that_is_not_the_hubs_is_named_in_the_text_only(
    artifact: Path, manifest_of: ManifestOf, base: str
) -> None:
    text = card(manifest_of(artifact, recipe=recipe(base, "rows.csv"), kind="full"))
    assert not {"base_model", "datasets"} & set(metadata_of(text))
    assert f"`{base}`" in text
    assert "`rows.csv`" in text
    assert metadata_of(text)["library_name"] == "transformers"


def test_scores_come_with_their_signature(artifact: Path, manifest_of: ManifestOf) -> None:
    report = Report("e2e", "m", "d", 1630, (Score("bleu", 32.912, "nrefs:var|case:lc"),), {})
    assert "| e2e | 1,630 | bleu | 32.91 | `nrefs:var\\|case:lc` |" in card(manifest_of(artifact), [report])
    assert "Not evaluated." in card(manifest_of(artifact))


def test_it_holds_data_digest_losses_and_the_command_to_make_it_again(artifact: Path, manifest_of: ManifestOf) -> None:
    manifest = manifest_of(artifact)
    text = card(manifest)
    assert f"| data digest | `{'a' * 64}` |" in text
    assert "| validation loss | 1.5000 nats per token |" in text
    assert "```sh\nllmops finetune recipe.yaml\n```" in text
    written = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(written) == manifest.recipe
    two = manifest_of(artifact, identity={"world": 2})
    assert "llmops finetune recipe.yaml --gpus 2" in card(two)


def test_credentials_stay_out(artifact: Path, manifest_of: ManifestOf) -> None:
    manifest = manifest_of(artifact, recipe=recipe("org/base", "s3://key:secret@host/rows.csv"))
    text = card(manifest)
    assert "secret" not in text
    assert "s3://host/rows.csv" in text


@given(name=st.text(max_size=60), source=st.text(min_size=1, max_size=60))
def test_no_name_breaks_out_of_its_place(name: str, source: str) -> None:
    manifest = RunManifest(
        name=name,
        digest="d",
        identity={},
        recipe=recipe("org/base", source, name),
        kind="full",
        artifact_digest="a",
        steps=1,
        tokens=1,
        trained_tokens=1,
        final_loss=1.0,
        validation_loss=None,
        tokens_per_s=1.0,
        predicted={},
        measured={},
        environment={},
    )
    text = card(manifest, [Report(name, source, "d", 1, (Score(source, 1.0, name),), {})])
    assert metadata_of(text)["base_model"] == "org/base"
    body = text.split("---\n", 2)[2]
    title = body.strip().splitlines()[0]
    assert title.startswith("#")
    assert "<" not in title
    unescaped = [
        line.replace("\\\\", "").replace("\\|", "") for line in body.splitlines() if line.startswith("| data |")
    ]
    assert [line.count("|") for line in unescaped] == [3]
    scored = body.split("## Scores\n")[1].split("## Make it again")[0]
    assert len(scored.strip().splitlines()) == 3


def test_a_fence_inside_the_recipe_does_not_end_it(artifact: Path, manifest_of: ManifestOf) -> None:
    given_recipe = recipe("org/base", "```\n# not a heading of the card\n```")
    text = card(manifest_of(artifact, recipe=given_recipe))
    assert yaml.safe_load(text.split("````yaml\n")[1].split("````")[0]) == given_recipe


def test_writing_it_leaves_the_artifacts_digest_as_it_was(artifact: Path, manifest_of: ManifestOf) -> None:
    before = folder_digest(artifact)
    path = write_card(artifact, manifest_of(artifact))
    assert path == artifact / "README.md"
    assert path.read_text() == card(manifest_of(artifact))
    assert folder_digest(artifact) == before
