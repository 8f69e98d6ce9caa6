"""A campaign from its file to rows to train on; who is erased is forgotten, and what holds their ratings says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, select

from llmops.data.section import Origin
from llmops.database import open_database
from llmops.errors import InputError
from llmops.events import Silent
from llmops.feedback import finished, store
from llmops.feedback.campaign import FromRows
from llmops.feedback.campaign_report import report_on
from llmops.feedback.desk import Desk
from llmops.feedback.items import Rated
from llmops.feedback.making import half_made, identities
from llmops.feedback.raters import add_rater
from llmops.feedback.ratings import rated
from llmops.feedback.tables import table
from llmops.feedback.tasks import Task
from llmops.feedback.verdicts import Given
from llmops.lifecycle.campaigns import add, create
from llmops.lifecycle.exports import export
from llmops.workspace import Workspace
from tests.feedback.small_campaigns import given
from tests.lifecycle.small_campaign import small

REPOSITORY = Path(__file__).parents[2]
PANDALM = REPOSITORY / "../shared/data/pandalm/testset-v1.json"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(REPOSITORY)
    return Workspace(tmp_path / "home")


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


class Killed(BaseException):
    """What ends a process: nothing catches it."""


@contextmanager
def killed_before(commit: int) -> Iterator[None]:
    """The process ends before so many transactions are stored."""
    left = commit

    def count(connection: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    event.listen(Engine, "commit", count)
    try:
        yield
    finally:
        event.remove(Engine, "commit", count)


def test_a_campaign_whose_making_is_interrupted_anywhere_is_made_to_the_end(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (store, finished):
        monkeypatch.setattr(module, "AT_ONCE", 2)
    file = small(tmp_path)
    whole = create(file, workspace=place, listener=Silent())
    expected = (list(identities(open_database(place), "small")), report_on(open_database(place), "small").ratings)
    commits = 0
    while commits < 100:
        commits += 1
        again = Workspace(tmp_path / f"home-{commits}")
        open_database(again)
        try:
            with killed_before(commits):
                create(file, workspace=again, listener=Silent())
        except Killed:
            made = create(file, workspace=again, listener=Silent())
            assert (made.items, made.ratings, made.clusters) == (whole.items, whole.ratings, whole.clusters)
            engine = open_database(again)
            assert (list(identities(engine, "small")), report_on(engine, "small").ratings) == expected
            assert half_made(engine) == {}
            with pytest.raises(InputError, match="already"):
                create(file, workspace=again, listener=Silent())
            continue
        break
    assert commits > 3 + 3 + 3, "three transactions of items, three of ratings, and those around them"


def test_a_half_made_campaign_is_completed_by_the_same_draw_alone(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AT_ONCE", 2)
    file = small(tmp_path, rows=40)
    file.write_text(file.read_text().replace("ratings: [ann, bob, cid]", "sample: 20"))
    with pytest.raises(Killed), killed_before(5):
        create(file, workspace=place, listener=Silent())
    engine = open_database(place)
    there = list(identities(engine, "small"))
    assert 0 < len(there) < 20
    text, rows = file.read_text(), (tmp_path / "rows.jsonl").read_text()
    for changed, content in ((file, text.replace("overlap: 3", "overlap: 2")), (tmp_path / "rows.jsonl", rows * 2)):
        before = changed.read_text()
        changed.write_text(content)
        with pytest.raises(InputError, match="has changed since"):
            create(file, workspace=place, listener=Silent())
        changed.write_text(before)
    assert (
        create(file, workspace=place, listener=Silent(), dry_run=True).notes[-1].endswith(f"{len(there)} of 20 items")
    )
    assert list(identities(engine, "small")) == there
    create(file, workspace=place, listener=Silent())
    everything = list(identities(engine, "small"))
    assert (everything[: len(there)], len(everything), len(set(everything))) == (there, 20, 20)


def test_of_two_that_make_one_campaign_one_is_told_and_no_item_is_there_twice(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AT_ONCE", 2)
    file = small(tmp_path)

    class Second(Silent):
        """Another process makes the same campaign while this one is at it."""

        def advance(self, what: str, done: int, total: int | None) -> None:
            if (what, done) == ("storing items", 2):
                create(file, workspace=place, listener=Silent())

    with pytest.raises(InputError, match="somebody else puts items into campaign 'small'"):
        create(file, workspace=place, listener=Second())
    everything = list(identities(open_database(place), "small"))
    assert len(everything) == len(set(everything)) == 6
    assert report_on(open_database(place), "small").ratings == 18


def test_rows_that_are_there_are_not_added_again(place: Workspace, tmp_path: Path) -> None:
    create(small(tmp_path), workspace=place, listener=Silent())
    source = FromRows(
        **{"from": "rows"}, rows=Origin(source=str(tmp_path / "rows.jsonl")), prompt="{q}", responses=["{a}", "{b}"]
    )
    assert add("small", source, workspace=place, listener=Silent()).items == 0
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"q": "another", "a": "x", "b": "y"}) + "\n")
    made = add("small", source, workspace=place, listener=Silent())
    assert (made.items, made.notes) == (1, ("6 rows are left out: they are in the campaign already",))


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
