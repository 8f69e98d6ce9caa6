"""A campaign from its file to rows to train on; who is erased is forgotten, and what holds their ratings says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select

from llmops.data.section import Origin
from llmops.database import open_database
from llmops.errors import InputError
from llmops.events import Silent
from llmops.feedback.campaign import FromRows
from llmops.feedback.campaign_report import report_on
from llmops.feedback.desk import Desk
from llmops.feedback.faults import NotThere
from llmops.feedback.items import Rated
from llmops.feedback.raters import add_rater
from llmops.feedback.ratings import rated
from llmops.feedback.tables import table
from llmops.feedback.tasks import Task
from llmops.feedback.verdicts import Given
from llmops.files import file_digest, write_json
from llmops.lifecycle.campaigns import add, create
from llmops.lifecycle.erasure import erase, mark_new
from llmops.lifecycle.exports import export
from llmops.registry.decisions import chain, sentence
from llmops.registry.promote import aliases_of
from llmops.registry.store import register
from llmops.workspace import Workspace
from tests.feedback.small_campaigns import given
from tests.registry.artifacts import manifest_of, write_model

REPOSITORY = Path(__file__).parents[2]
PANDALM = REPOSITORY / "../shared/data/pandalm/testset-v1.json"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(REPOSITORY)
    return Workspace(tmp_path / "home")


def small(tmp_path: Path, *, rows: int = 6) -> Path:
    """A finished campaign of a few items, of which two raters prefer the first answer and one does not."""
    lines = [
        {"q": f"question {n}", "a": f"good {n}", "b": f"bad {n}", "ann": "A", "bob": "A", "cid": "B"}
        for n in range(rows)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nkind: pairwise\nrubric: feedback/rubrics/helpfulness.yaml\noverlap: 3\n"
        f"items: {{from: rows, rows: {{source: {data}}}, prompt: '{{q}}', responses: ['{{a}}', '{{b}}'], "
        "ratings: [ann, bob, cid]}\n"
    )
    return file


def test_ratings_given_elsewhere_make_a_finished_campaign(place: Workspace, tmp_path: Path) -> None:
    made = create(small(tmp_path), workspace=place, listener=Silent())
    assert (made.items, made.ratings) == (6, 18)
    engine = open_database(place)
    found = report_on(engine, "small")
    assert (found.complete, found.items, found.ratings) == (6, 6, 18)
    everything: list[Rated] = list(rated(engine, "small"))
    assert [one.item.prompt[0]["content"] for one in everything] == [f"question {n}" for n in range(6)]


def test_a_dry_run_writes_nothing_and_a_name_is_taken_once(place: Workspace, tmp_path: Path) -> None:
    file = small(tmp_path)
    assert create(file, workspace=place, listener=Silent(), dry_run=True).items == 6
    create(file, workspace=place, listener=Silent())
    with pytest.raises(InputError, match="there is a campaign 'small' already"):
        create(file, workspace=place, listener=Silent())


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
    trained, other = write_model(tmp_path / "trained"), write_model(tmp_path / "other", 2.0)
    for name, folder, sources in (("preferred", trained, [used]), ("other", other, [])):
        manifest = manifest_of(folder, digest=name[0] * 64, lineage={"sources": sources})
        write_json(folder / "manifest.json", asdict(manifest))
        register(name, folder, manifest, workspace=place)
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
    made = {}
    for name, folder, sources in (("late", tmp_path / "late", [used]), ("other", tmp_path / "other", [])):
        manifest = manifest_of(write_model(folder, len(name)), digest=name[0] * 64, lineage={"sources": sources})
        write_json(folder / "manifest.json", asdict(manifest))
        made[name] = (register(name, folder, manifest, workspace=place), manifest)
    assert mark_new(*made["late"], workspace=place) == ("small.ann",)
    assert mark_new(*made["late"], workspace=place) == ("small.ann",)
    assert mark_new(*made["other"], workspace=place) == ()
    (link,) = chain(open_database(place), "late")
    assert (link.kind, link.reason) == ("erase", "rater small.ann: ratings dropped")
    assert chain(open_database(place), "other") == []


def test_every_rating_that_was_stored_is_in_a_row_or_has_a_reason(place: Workspace, tmp_path: Path) -> None:
    create(small(tmp_path), workspace=place, listener=Silent())
    engine = open_database(place)
    (first, *_) = rated(engine, "small")
    (before, *_) = first.ratings
    verdict = {"kind": "pairwise", "step": 3}
    after = Given.model_validate(
        {"id": str(uuid4()), "assignment": before.assignment, "rubric": before.rubric, "verdict": verdict,
         "supersedes": before.id}
    )  # fmt: skip
    Desk(engine).submit(after, before.rater)
    export("small", "dpo", tmp_path / "out", workspace=place)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    out = [json.loads(line) for line in (tmp_path / "out" / "excluded.jsonl").read_text().splitlines()]
    told = {rating for row in rows for rating in row["ratings"]} | {one["rating"] for one in out}
    with engine.connect() as connection:
        assert told == set(connection.execute(select(table("ratings").c.id)).scalars())
    reason = "replaced by what the same rater said later"
    assert out == [{"rating": before.id, "item": first.item.id, "reason": reason}]


def test_no_prompt_is_on_both_sides_of_a_split_however_its_items_came_in(place: Workspace, tmp_path: Path) -> None:
    """Items of the same and nearly the same prompts, in the campaign's file and imported later, in two files."""
    base = "please write a short and friendly letter to neighbour {} about the noise of last night in the garden"
    prompts = [base.format(number) for number in range(12)]

    def file(name: str, asked: list[str]) -> str:
        data = tmp_path / name
        data.write_text("".join(json.dumps({"q": q, "a": f"good {q}", "b": f"bad {q}"}) + "\n" for q in asked))
        return str(data)

    settings = tmp_path / "split.yaml"
    settings.write_text(
        "name: split\nkind: pairwise\nrubric: feedback/rubrics/helpfulness.yaml\n"
        f"items: {{from: rows, rows: {{source: {file('one.jsonl', prompts)}}}, prompt: '{{q}}', "
        "responses: ['{a}', '{b}']}\n"
    )
    create(settings, workspace=place, listener=Silent())
    for name, asked in (("two.jsonl", [f"{one}!" for one in prompts]), ("three.jsonl", [p.upper() for p in prompts])):
        source = FromRows(
            **{"from": "rows"}, rows=Origin(source=file(name, asked)), prompt="{q}", responses=["{a}", "{b}"]
        )
        add("split", source, workspace=place, listener=Silent())
    engine = open_database(place)
    add_rater(engine, "ann")
    desk = Desk(engine)
    while isinstance(task := desk.next("split", "ann"), Task):
        desk.submit(given(task), "ann")
    about = export("split", "dpo", tmp_path / "out", workspace=place, validation=0.4)
    assert about["rows"]["train"] + about["rows"]["validation"] == 36
    sides = {}
    for side in ("train", "validation"):
        rows = [json.loads(line) for line in (tmp_path / "out" / f"{side}.jsonl").read_text().splitlines()]
        sides[side] = {row["prompt"][0]["content"].casefold().rstrip("!") for row in rows}
    assert sides["train"].isdisjoint(sides["validation"])


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
def test_both_sides_of_a_split_have_rows_however_few_there_are(place: Workspace, tmp_path: Path, share: float) -> None:
    create(small(tmp_path, rows=2), workspace=place, listener=Silent())
    about = export("small", "dpo", tmp_path / "out", workspace=place, validation=share)
    assert about["rows"] == {"train": 1, "validation": 1}


def test_pandalm_as_a_finished_campaign_has_the_published_agreement(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PANDALM.is_file():
        pytest.skip("PandaLM's ratings are not beside the repository, in ../shared/data/pandalm")
    monkeypatch.setenv("PANDALM", str(PANDALM))
    made = create(REPOSITORY / "feedback/campaigns/pandalm.yaml", workspace=place, listener=Silent())
    assert (made.items, made.ratings) == (999, 2997)
    found = report_on(open_database(place), "pandalm")
    kappas = sorted(round(one.kappa, 3) for one in found.pairs)
    assert kappas == [0.852, 0.862, 0.879], "published as 0.85, 0.86 and 0.88 (Wang et al. 2024, arXiv:2306.05087)"
    agreed = found.agreement["preference"]
    assert agreed is not None
    assert (round(agreed.fleiss.value, 3), round(agreed.alpha.value, 3)) == (0.864, 0.864)
    assert found.not_text == 6
    assert found.ranking is not None
    assert [one.model for one in found.ranking.standings] == [
        "llama-7b", "pythia-6.9b", "bloom-7b", "opt-7b", "cerebras-gpt-6.7B",
    ]  # fmt: skip
    about = export("pandalm", "dpo", tmp_path / "out", workspace=place)
    assert about["ratings_excluded"]["an answer is no text"] == 18
    assert about["rows"]["train"] > 800
