"""Who is erased is forgotten; exports with their ratings, and models made of those, say so, whenever they were made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmops import files
from llmops.data.section import DataSection
from llmops.data.versions import load_version, prepare, version_folder
from llmops.database import open_database
from llmops.events import Silent
from llmops.feedback.events import events
from llmops.feedback.faults import NotThere
from llmops.files import file_digest, folder_digest, write_json
from llmops.lifecycle import erasure, exports
from llmops.lifecycle.campaigns import create
from llmops.lifecycle.erasure import erase, mark_new
from llmops.lifecycle.exports import EXPORTED, export
from llmops.records import RunManifest
from llmops.registry.decisions import chain, sentence
from llmops.registry.licence_chain import MERGED
from llmops.registry.promote import aliases_of
from llmops.registry.store import ModelVersion, register
from llmops.workspace import Workspace
from tests.lifecycle.small_campaign import small
from tests.registry.artifacts import manifest_of, write_model

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(REPOSITORY)
    return Workspace(tmp_path / "home")


def trained(
    place: Workspace, folder: Path, weight: float, *, sources: list[dict[str, Any]], base: Path | None = None
) -> tuple[ModelVersion, RunManifest]:
    """A registered version, called as its folder is, that was trained on these sources, from the model in `base`."""
    lineage: dict[str, Any] = {"sources": sources}
    more: dict[str, Any] = {"lineage": lineage}
    if base is not None:
        lineage |= {"base": str(base), "base_digest": folder_digest(base)}
        more["identity"] = {"base": lineage["base_digest"]}
    manifest = manifest_of(write_model(folder, weight), digest=folder.name[0] * 64, **more)
    write_json(folder / "manifest.json", asdict(manifest))
    return register(folder.name, folder, manifest, workspace=place), manifest


def test_who_is_erased_leaves_marks_on_exports_and_their_ratings_are_dropped_if_asked(
    place: Workspace, tmp_path: Path
) -> None:
    create(small(tmp_path), workspace=place, listener=Silent())
    out = tmp_path / "out"
    about = export("small", "dpo", out, workspace=place)
    assert about["raters"] == ["small.ann", "small.bob", "small.cid"]
    done = erase("small.cid", drop=True, actor="admin", workspace=place)
    assert (done.ratings, done.exports, done.models) == (6, (str(out),), ())
    assert json.loads((out / "ERASED.json").read_text()) == {"export": about["digest"], "raters": ["small.cid"]}
    again = export("small", "dpo", tmp_path / "again", workspace=place)
    assert again["raters"] == ["small.ann", "small.bob"]
    rows = [json.loads(line) for line in (tmp_path / "again" / "train.jsonl").read_text().splitlines()]
    assert {(row["raters"], row["agreement"]) for row in rows} == {(2, 1.0)}
    with pytest.raises(NotThere):
        erase("nobody", drop=False, actor="admin", workspace=place)


@pytest.fixture
def registering(
    make_workspace: Callable[[Path], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A workspace with a registry and the campaign `small`."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = make_workspace(tmp_path / "home")
    create(small(tmp_path), workspace=place, listener=Silent())
    return place


def test_a_model_trained_on_the_ratings_of_who_is_erased_is_marked_and_stays_champion(
    registering: Workspace, tmp_path: Path
) -> None:
    place = registering
    out = tmp_path / "out"
    export("small", "dpo", out, workspace=place)
    used = {"source": str(out / "train.jsonl"), "digest": file_digest(out / "train.jsonl"), "rows": 6}
    trained(place, tmp_path / "preferred", 1.0, sources=[used])
    trained(place, tmp_path / "other", 2.0, sources=[])
    before = aliases_of("preferred", workspace=place)
    done = erase("small.ann", drop=False, actor="admin", workspace=place)
    assert done.models == ("models:/preferred/1",)
    (link,) = chain(open_database(place), "preferred")
    assert link.kind == "erase"
    assert "erased a rater whose ratings models:/preferred/1 was trained on" in sentence(link)
    assert chain(open_database(place), "other") == []
    assert aliases_of("preferred", workspace=place) == before


def test_what_is_trained_on_a_marked_export_later_is_marked_as_well(registering: Workspace, tmp_path: Path) -> None:
    place = registering
    rows = tmp_path / "out" / "train.jsonl"
    export("small", "dpo", tmp_path / "out", workspace=place)
    erase("small.ann", drop=True, actor="admin", workspace=place)
    used = {"source": str(rows), "digest": file_digest(rows), "rows": 6}
    late = trained(place, tmp_path / "late", 1.0, sources=[used])
    other = trained(place, tmp_path / "other", 2.0, sources=[])
    assert mark_new(*late, workspace=place) == ("small.ann",)
    assert mark_new(*late, workspace=place) == ("small.ann",)
    assert mark_new(*other, workspace=place) == ()
    (link,) = chain(open_database(place), "late")
    assert (link.kind, link.reason) == ("erase", "rater small.ann: ratings dropped")
    assert chain(open_database(place), "other") == []


def merged_of(version: ModelVersion, folder: Path) -> Path:
    """A folder as `llmops merge` leaves it, wherever it was told to put it."""
    write_model(folder, 9.0)
    write_json(folder / MERGED, {"merged_from": {"adapter_digest": version.digest, "base_digest": "0" * 64}})
    return folder


@pytest.mark.parametrize("through", ["itself", "a merged folder"])
def test_what_is_made_of_a_marked_version_is_marked_as_well(
    registering: Workspace, tmp_path: Path, through: str
) -> None:
    """Whether it was made before somebody was erased or after."""
    place = registering
    rows = tmp_path / "out" / "train.jsonl"
    export("small", "dpo", tmp_path / "out", workspace=place)
    used = {"source": str(rows), "digest": file_digest(rows), "rows": 6}
    version, _ = trained(place, tmp_path / "first", 1.0, sources=[used])
    base = tmp_path / "first" if through == "itself" else merged_of(version, tmp_path / "elsewhere")
    trained(place, tmp_path / "before", 2.0, sources=[], base=base)
    done = erase("small.ann", drop=False, actor="admin", workspace=place)
    assert done.models == ("models:/first/1", "models:/before/1")
    erase("small.bob", drop=True, actor="admin", workspace=place)
    after = trained(place, tmp_path / "quantized", 3.0, sources=[], base=base)
    assert mark_new(*after, workspace=place) == ("small.ann", "small.bob")
    wanted = ["rater small.ann: ratings kept under the pseudonym", "rater small.bob: ratings dropped"]
    for name in ("first", "before", "quantized"):
        assert [link.reason for link in chain(open_database(place), name)] == wanted


def test_a_folder_of_exports_is_known_by_its_files(registering: Workspace, tmp_path: Path) -> None:
    place = registering
    export("small", "dpo", tmp_path / "out", workspace=place)
    together = tmp_path / "together"
    together.mkdir()
    (tmp_path / "out" / "train.jsonl").rename(together / "one.jsonl")
    more = [{"prompt": [{"role": "user", "content": "x"}], "chosen": "y", "rejected": "z"}]
    (together / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    (tmp_path / "more.jsonl").write_text((together / "two.jsonl").read_text())
    found: list[tuple[ModelVersion, RunManifest]] = []
    for name, source in (("folder", together), ("rest", tmp_path / "more.jsonl")):
        columns = {"prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}"}
        section = DataSection.model_validate({"train": [{"source": str(source), **columns}]})
        version = prepare(section, objects=place.objects, cache=place.cache)
        read = load_version(version_folder(place.objects, version.digest)).sources
        assert read == version.sources
        found.append(trained(place, tmp_path / name, len(found) + 1.0, sources=[one.plain() for one in read]))
    done = erase("small.ann", drop=False, actor="admin", workspace=place)
    assert done.models == ("models:/folder/1",)


def test_an_erasure_that_ends_half_way_is_completed_by_the_next(
    registering: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = registering
    rows = tmp_path / "out" / "train.jsonl"
    export("small", "dpo", tmp_path / "out", workspace=place)
    trained(place, tmp_path / "m", 1.0, sources=[{"source": "x", "digest": file_digest(rows), "rows": 6}])
    for place_of_end in ("_mark_export", "mark_erased", "erase_rater"):
        with monkeypatch.context() as patch:
            patch.setattr(erasure, place_of_end, _ended)
            with pytest.raises(KeyboardInterrupt):
                erase("small.ann", drop=True, actor="admin", workspace=place)
    done = erase("small.ann", drop=True, actor="admin", workspace=place)
    assert (done.ratings, done.models) == (6, ("models:/m/1",))
    assert len(chain(open_database(place), "m")) == 1
    assert len(list(events(open_database(place), kind=erasure.TOMBSTONED))) == 1
    assert json.loads((tmp_path / "out" / "ERASED.json").read_text())["raters"] == ["small.ann"]
    with pytest.raises(NotThere):
        erase("small.ann", drop=True, actor="admin", workspace=place)


def _ended(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_no_export_gets_out_that_is_not_on_record(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(small(tmp_path), workspace=place, listener=Silent())
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_event", _ended)
        with pytest.raises(KeyboardInterrupt):
            export("small", "dpo", out, workspace=place)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(files, "put_in_place", _ended)
        with pytest.raises(KeyboardInterrupt):
            export("small", "dpo", out, workspace=place)
    assert not out.exists()
    assert len(list(events(open_database(place), kind=EXPORTED))) == 1


def test_a_later_export_in_the_same_folder_without_their_ratings_gets_no_mark(place: Workspace, tmp_path: Path) -> None:
    create(small(tmp_path), workspace=place, listener=Silent())
    out = tmp_path / "out"
    export("small", "dpo", out, workspace=place)
    erase("small.cid", drop=True, actor="admin", workspace=place)
    assert (out / "ERASED.json").is_file()
    export("small", "dpo", out, workspace=place)
    assert not (out / "ERASED.json").exists()
    erase("small.bob", drop=True, actor="admin", workspace=place)
    assert json.loads((out / "ERASED.json").read_text())["raters"] == ["small.bob"]
