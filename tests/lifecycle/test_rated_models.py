"""Items out of the ledger say which bytes and which chat template their answers are from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from llmops.database import open_database
from llmops.events import Silent
from llmops.feedback.ratings import items
from llmops.files import write_json
from llmops.lifecycle.campaigns import create
from llmops.lifecycle.rated_models import on_record
from llmops.registry.store import register
from llmops.workspace import Workspace
from tests.lifecycle.kept_requests import keep
from tests.registry.artifacts import manifest_of, write_model

REPOSITORY = Path(__file__).parents[2]
TEMPLATE = "7" * 64


@pytest.fixture
def place(make_workspace: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Its registry has `models:/m/1`, whose run used a known template."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = make_workspace(tmp_path / "home")
    folder = write_model(tmp_path / "trained")
    manifest = manifest_of(folder, lineage={"template": TEMPLATE})
    write_json(folder / "manifest.json", asdict(manifest))
    register("m", folder, manifest, workspace=made)
    return made


def test_answers_of_a_registered_version_carry_digest_template_and_decoding(place: Workspace, tmp_path: Path) -> None:
    keep(open_database(place), "what?", "this", "that", version="models:/m/1")
    file = tmp_path / "c.yaml"
    file.write_text(
        "{name: c, kind: pairwise, rubric: feedback/rubrics/helpfulness.yaml, items: {from: ledger, route: null}}\n"
    )
    create(file, workspace=place, listener=Silent())
    (item,) = items(open_database(place), "c")
    known, unknown = item.responses
    assert (known.model, unknown.model) == ("models:/m/1", "models:/big/0")
    assert known.detail["template"] == TEMPLATE
    assert len(known.detail["digest"]) == 64
    assert known.detail["decoding"] == {"temperature": 0.7}
    assert "template" not in unknown.detail, "nothing is on record of it"


def test_what_the_registry_does_not_know_or_is_not_asked_about_says_nothing(place: Workspace, tmp_path: Path) -> None:
    assert on_record("models:/m/2", place) == {}
    assert on_record("gpt-4o", place) == {}
    empty = Workspace(tmp_path / "empty")
    assert on_record("models:/m/1", empty) == {}
    assert not (empty.home / "mlflow.db").exists(), "no registry is made to find out"
