"""A dataset version is its rows: the same prompt never on both sides, every dropped row named, whole or not there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.assembly import SPLITS
from llmops.data.formats import prompt_key
from llmops.data.section import DataSection
from llmops.data.versions import diff, held_out_by, load_version, prepare, rows_of
from llmops.errors import InputError
from llmops.records import DatasetVersion, Finding

Cells = Mapping[str, Any]


class Place:
    """A folder with sources, and an object store and cache beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.objects, self.cache = folder, folder / "objects", folder / "cache"

    def source(self, rows: Sequence[Cells], name: str = "rows.jsonl", **more: Any) -> dict[str, Any]:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"source": str(path), "prompt": "{q}", "completion": "{a}", **more}

    def prepare(
        self,
        *sources: dict[str, Any],
        validation: float | list[dict[str, Any]] = 0.0,
        held_out: Mapping[str, Sequence[str]] = {},
        on_progress: Any = lambda done, what: None,
        **checks: Any,
    ) -> DatasetVersion:
        section = DataSection.model_validate({"train": list(sources), "validation": validation, "checks": checks})
        return prepare(section, objects=self.objects, cache=self.cache, held_out=held_out, on_progress=on_progress)

    def versions(self) -> list[str]:
        return sorted(path.name for path in self.objects.iterdir()) if self.objects.is_dir() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def qa(*pairs: tuple[str, str]) -> list[Cells]:
    return [{"q": q, "a": a} for q, a in pairs]


def numbered(count: int) -> list[Cells]:
    return qa(*((f"question {n}", f"answer {n}") for n in range(count)))


def said(version: DatasetVersion, split: Any) -> list[tuple[str, str]]:
    return [
        (row.content["messages"][0]["content"], row.content["messages"][1]["content"])
        for row in rows_of(version, split)
    ]


def dropped(version: DatasetVersion) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (version.folder / "dropped.jsonl").read_bytes().splitlines()]


def finding(version: DatasetVersion, check: str) -> Finding:
    return next(found for found in version.findings if found.check == check)


# ── the rows ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_come_back_as_they_were_read_in_the_order_of_the_sources(place: Place) -> None:
    first = place.source(qa(("é\u2028\u0085x", "ö"), ("b", "👩‍👩‍👧")), "z.jsonl", weight=2.0)
    second = place.source(qa(("c", "d")), "a.jsonl")
    version = place.prepare(first, second)
    assert said(version, "train") == [("é\u2028\u0085x", "ö"), ("b", "👩‍👩‍👧"), ("c", "d")]
    assert [(row.source, row.line, row.weight) for row in rows_of(version, "train")] == [
        (first["source"], 1, 2.0),
        (first["source"], 2, 2.0),
        (second["source"], 1, 1.0),
    ]
    assert version.rows == {"train": 3, "validation": 0, "dropped": 0}
    assert [use.rows for use in version.sources] == [2, 1]
    assert load_version(version.folder) == version


def test_every_row_read_is_kept_or_dropped_with_its_reason_and_content(place: Place) -> None:
    rows = [*numbered(3), {"q": "x", "a": None}, *numbered(1), {"q": "y", "a": "\r\n"}, {"q": "cr\r\nlf", "a": "z"}]
    version = place.prepare(place.source(rows))
    left_out = dropped(version)
    assert version.rows == {"train": 4, "validation": 0, "dropped": 3}
    assert [(one["line"], one["check"]) for one in left_out] == [
        (4, "unusable rows"),
        (5, "duplicates"),
        (6, "unusable rows"),
    ]
    assert left_out[0]["content"] == rows[3]
    assert "null" in left_out[0]["reason"]
    assert left_out[1]["digest"] == next(rows_of(version, "train")).id
    assert finding(version, "unusable rows").rows == 2
    source = version.sources[0].source
    assert finding(version, "duplicates").named == (f"{source}:5: the same as line 1",)
    assert finding(version, "line ends") == Finding("line ends", "reported", 1, (f"{source}:7: CRLF and CR became LF",))


def test_the_digest_is_of_rows_in_order_with_side_and_weight_not_of_places(place: Place) -> None:
    rows = numbered(6)
    base = place.prepare(place.source(rows))
    assert place.prepare(place.source(rows, "elsewhere.jsonl")).digest == base.digest
    (place.folder / "rows.csv").write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in rows))
    assert place.prepare(place.source([]) | {"source": str(place.folder / "rows.csv")}).digest == base.digest
    source = place.source(rows)
    others = [
        place.prepare(place.source(rows[::-1], "b.jsonl")),
        place.prepare(place.source([*rows[:5], {"q": "question 5", "a": "answer 6"}], "c.jsonl")),
        place.prepare(source | {"weight": 2.0}),
        place.prepare(source, validation=0.4),
        place.prepare(source | {"take": 5}),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 6


def test_a_missing_column_stops_before_anything_is_written(place: Place) -> None:
    with pytest.raises(InputError, match="no column `nope`"):
        place.prepare(place.source(numbered(2), completion="{nope}"))
    assert place.versions() == []


def test_nothing_left_to_train_on_is_an_error_with_the_reasons(place: Place) -> None:
    with pytest.raises(InputError, match=r"unusable rows 2 \(first: .*:1: the completion is empty\)"):
        place.prepare(place.source(qa(("a", ""), ("b", " "))))
    assert place.versions() == []


def test_rows_are_not_held_in_memory(place: Place) -> None:
    source = place.source([{"q": f"{n}", "a": f"{n} " + "x" * 40_000} for n in range(150)])
    tracemalloc.start()
    try:
        version = place.prepare(source, validation=0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert version.rows["dropped"] == 0
    assert (version.folder / "train.jsonl").stat().st_size > 5_000_000
    assert peak < 3_000_000


# ── the split ──────────────────────────────────────────────────────────────────────────────────────────────────────

prompts_of = st.lists(
    st.tuples(st.text("ab \n", min_size=1).filter(str.strip), st.sampled_from("xyz")), min_size=1, max_size=12
)


@settings(max_examples=25)
@given(prompts_of, st.floats(0, 0.99), st.randoms(use_true_random=False))
def test_a_prompt_is_on_one_side_whatever_the_order_of_the_rows(
    pairs: list[tuple[str, str]], share: float, shuffled: random.Random
) -> None:
    sides = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder))
            version = place.prepare(place.source(qa(*pairs)), validation=share, duplicates="keep")
            train, held_out = (
                {prompt_key(row) for row in rows_of(version, split)} for split in ("train", "validation")
            )
            counts = version.rows["train"], version.rows["validation"]
        assert not train & held_out
        assert sum(counts) == len(pairs)
        assert train
        assert bool(held_out) == (share > 0 and len(train | held_out) > 1)
        sides.append((train, held_out, counts))
        shuffled.shuffle(pairs)
    assert sides[0] == sides[1]


def test_the_share_of_prompts_held_out_is_near_the_share_asked_for() -> None:
    held = sum(held_out_by(f"user: {n}", 0.2) for n in range(4000))
    assert abs(held / 4000 - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5


def test_a_prompt_held_out_stays_held_out_when_rows_are_added(place: Place) -> None:
    small = place.prepare(place.source(numbered(100)), validation=0.2)
    large = place.prepare(place.source(numbered(200)), validation=0.2)
    assert set(said(small, "validation")) <= set(said(large, "validation"))
    assert set(said(small, "train")) <= set(said(large, "train"))


def test_training_rows_whose_prompt_is_in_a_validation_source_are_dropped_as_leakage(place: Place) -> None:
    train = place.source(qa(("a", "1"), (" b\n", "2"), ("b", "3"), ("c", "4")))
    held_out = place.source(qa(("b", "5"), ("d", "6")), "held_out.jsonl")
    version = place.prepare(train, validation=[held_out])
    assert said(version, "train") == [("a", "1"), ("c", "4")]
    assert said(version, "validation") == [("b", "5"), ("d", "6")]
    assert finding(version, "leakage").rows == 2
    assert [one["check"] for one in dropped(version)] == ["leakage", "leakage"]


# ── the checks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("action", "kept"), [("drop", 1), ("report", 2), ("keep", 2)])
def test_exact_duplicates_up_to_space_and_case(place: Place, action: str, kept: int) -> None:
    version = place.prepare(place.source(qa(("Same  q", "a"), ("same q", "A"))), duplicates=action)
    assert version.rows["train"] == kept
    found = [one for one in version.findings if one.check == "duplicates"]
    assert [(one.action, one.rows) for one in found] == (
        [] if action == "keep" else [("dropped" if action == "drop" else "reported", 1)]
    )


def test_a_duplicate_from_another_source_names_the_source(place: Place) -> None:
    first, second = place.source(numbered(2), "one.jsonl"), place.source(numbered(2)[1:], "two.jsonl")
    version = place.prepare(first, second)
    assert finding(version, "duplicates").named == (f"{second['source']}:1: the same as {first['source']}:2",)


@pytest.mark.parametrize(("action", "kept"), [("drop", 2), ("report", 3), ("keep", 3)])
def test_near_duplicates_are_compared_with_rows_already_written(place: Place, action: str, kept: int) -> None:
    words = " ".join(f"w{n}" for n in range(60))
    rows = qa((words, "yes"), ("another thing", "no"), (words, "yes indeed"))
    version = place.prepare(place.source(rows), near_duplicates=action, similarity=0.8, validation=0.5)
    assert version.rows["train"] + version.rows["validation"] == kept
    assert sum(one.rows for one in version.findings if one.check == "near duplicates") == (action != "keep")


def test_items_of_suites_are_dropped(place: Place) -> None:
    source = place.source(qa(("What is 2+2?", "4"), ("What is 3+3?", "6")))
    version = place.prepare(source, contamination=["suite.yaml"], held_out={"maths": ["what is  2+2?"]})
    assert said(version, "train") == [("What is 3+3?", "6")]
    assert "suite maths" in finding(version, "contamination").named[0]


def test_an_item_with_personal_data_is_recognised_although_it_is_redacted(place: Place) -> None:
    source = place.source(qa(("Write to jane@example.com", "ok"), ("b", "c")))
    version = place.prepare(
        source, contamination=["s"], held_out={"s": ["Write to jane@example.com"]}, personal_data="redact"
    )
    assert said(version, "train") == [("b", "c")]


def test_suites_named_but_not_passed_are_a_programming_error(place: Place) -> None:
    with pytest.raises(ValueError, match="held_out"):
        place.prepare(place.source(numbered(1)), contamination=["suite.yaml"])


PRIVATE = qa(("Who is jane@example.com?", "Call +49 30 1234567"), ("b", "c"), ("jane@example.com", ""))


def test_personal_data_is_reported_without_repeating_it(place: Place) -> None:
    version = place.prepare(place.source(PRIVATE), personal_data="report")
    (named,) = finding(version, "personal data").named
    assert named.endswith(":1: e-mail address in the user turn, phone number in the assistant turn")
    assert said(version, "train")[0][0] == "Who is jane@example.com?"


def test_redacted_personal_data_is_in_no_file(place: Place) -> None:
    version = place.prepare(place.source(PRIVATE), personal_data="redact")
    assert said(version, "train")[0] == ("Who is [EMAIL]?", "Call [PHONE]")
    assert finding(version, "personal data").action == "redacted"
    for file in version.folder.iterdir():
        assert b"jane" not in file.read_bytes(), file
        assert b"1234567" not in file.read_bytes(), file


def test_refused_personal_data_stops_with_the_rows_named_and_nothing_written(place: Place) -> None:
    with pytest.raises(InputError, match=r"1 row\(s\) hold personal data: .*:1: e-mail") as caught:
        place.prepare(place.source(PRIVATE), personal_data="refuse")
    assert "jane" not in str(caught.value)
    assert place.versions() == []
    assert place.prepare(place.source(numbered(1)), personal_data="refuse").rows["train"] == 1


# ── done once, whole or not at all ─────────────────────────────────────────────────────────────────────────────────


class Reads:
    """Counts calls of `on_progress`: none where nothing is read."""

    calls = 0

    def __call__(self, done: int, total: int | None) -> None:
        self.calls += 1


def test_the_same_section_over_the_same_sources_reads_nothing_again(place: Place) -> None:
    source, reads = place.source(numbered(5)), Reads()
    first = place.prepare(source, on_progress=reads)
    assert reads.calls
    reads.calls = 0
    assert place.prepare(source, on_progress=reads) == first
    assert not reads.calls


def test_another_section_source_or_suite_is_read(place: Place) -> None:
    source, reads = place.source(numbered(5)), Reads()
    first = place.prepare(source, contamination=["s"], held_out={"s": ["x"]}, on_progress=reads)
    changes: list[dict[str, Any]] = [
        {"held_out": {"s": ["question 1"]}, "contamination": ["s"]},
        {"held_out": {"s": ["x"]}, "contamination": ["s"], "similarity": 0.8},
    ]
    for change in changes:
        reads.calls = 0
        place.prepare(source, on_progress=reads, **change)
        assert reads.calls
    reads.calls = 0
    place.source(numbered(6))
    assert place.prepare(source, contamination=["s"], held_out={"s": ["x"]}, on_progress=reads) != first
    assert reads.calls


def test_a_version_that_was_removed_or_damaged_is_made_again(place: Place) -> None:
    source = place.source(numbered(5))
    first = place.prepare(source)
    (first.folder / "train.jsonl").write_text("")
    with pytest.raises(InputError, match="damaged"):
        load_version(first.folder)
    assert place.prepare(source) == first
    assert len(list(rows_of(first, "train"))) == 5


def test_two_ways_to_the_same_rows_each_keep_their_own_report(place: Place) -> None:
    source = place.source(numbered(5))
    plain, quiet = place.prepare(source), place.prepare(source, near_duplicates="keep")
    assert plain.digest == quiet.digest
    assert place.prepare(source).findings == plain.findings != quiet.findings


def test_an_error_half_way_leaves_no_folder(place: Place) -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    source = place.source(numbered(450))
    with pytest.raises(KeyboardInterrupt):
        place.prepare(source, on_progress=stop)
    assert place.versions() == []
    assert place.prepare(source).rows["train"] == 450


def test_a_kill_half_way_leaves_no_version_and_its_remains_are_removed_later(place: Place) -> None:
    source = place.source(numbered(450))
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom llmops.data.section import DataSection\n"
        "from llmops.data.versions import prepare\n"
        "rows = {'source': sys.argv[1], 'prompt': '{q}', 'completion': '{a}'}\n"
        "section = DataSection.model_validate({'train': [rows]})\n"
        "home = Path(sys.argv[2])\n"
        "prepare(section, objects=home / 'objects', cache=home / 'cache',\n"
        "        on_progress=lambda done, what: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, source["source"], str(place.folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = place.versions()
    assert not left.startswith("dataset-")
    os.utime(place.objects / left, (1e9, 1e9))
    version = place.prepare(source)
    assert place.versions() == [version.folder.name]


def test_a_source_that_changes_while_it_is_read_is_refused(place: Place) -> None:
    source = place.source(numbered(450))

    def overwrite(done: int, total: int | None) -> None:
        with Path(source["source"]).open("a") as file:
            file.write('{"q": "new", "a": "row"}\n')

    with pytest.raises(InputError, match="changed while"):
        place.prepare(source, on_progress=overwrite)
    assert place.versions() == []


def test_a_folder_without_a_version_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset version"):
        load_version(tmp_path)


def test_hub_rows_are_pinned_to_the_commit_the_version_records(place: Place) -> None:
    class Hub:
        head, read = "a" * 40, 0

        def commit(self, name: str, revision: str | None) -> str:
            return revision or self.head

        def rows(self, name: str, *, config: str | None, split: str, commit: str) -> Iterator[Mapping[str, Any]]:
            self.read += 1
            assert commit == self.head
            return iter(numbered(3))

    hub = Hub()
    section = DataSection.model_validate({"train": [{"source": "hub:o/n", "prompt": "{q}", "completion": "{a}"}]})
    for head, reads in (("a" * 40, 1), ("a" * 40, 1), ("b" * 40, 2)):
        hub.head = head
        version = prepare(section, objects=place.objects, cache=place.cache, hub=hub)
        assert version.sources[0].digest == f"commit {head} train"
        assert hub.read == reads


# ── differences ────────────────────────────────────────────────────────────────────────────────────────────────────

Sides = list[tuple[str, bool]]
sides = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=10)


@settings(max_examples=25)
@given(sides, sides)
def test_a_difference_accounts_for_every_row_of_both(
    one: list[tuple[str, bool]], other: list[tuple[str, bool]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))

        def version(of: Sides, name: str) -> DatasetVersion:
            """Rows on the sides they are said to be on, duplicates kept, and one row that both always train on."""
            lists = {side: [{"x": row} for row, held in of if held is side] for side in (True, False)}
            section: dict[str, Any] = {
                "train": [place.source([*lists[False], {"x": "z"}], f"{name}t")],
                "checks": {"duplicates": "keep", "near_duplicates": "keep"},
            }
            if lists[True]:
                section["validation"] = [place.source(lists[True], f"{name}v")]
            for spec in (*section["train"], *section.get("validation", [])):
                spec |= {"format": "jsonl", "text": "x"}
                del spec["prompt"], spec["completion"]
            made = DataSection.model_validate(section)
            return prepare(made, objects=place.objects, cache=place.cache)

        a, b = version(one, "a"), version(other, "b")
        difference = diff(a, b)
        before, after = (Counter(row.id for side in SPLITS for row in rows_of(v, side)) for v in (a, b))
        assert difference.added == (after - before).total()
        assert difference.removed == (before - after).total()
        assert difference.unchanged + difference.moved + difference.added == after.total()
        assert difference.unchanged + difference.moved + difference.removed == before.total()
        assert len(difference.added_rows) == min(5, difference.added)
        back = diff(b, a)
        assert (back.added, back.removed, back.moved) == (difference.removed, difference.added, difference.moved)
        same = diff(a, replace(a))
        assert (same.added, same.removed, same.moved, same.unchanged) == (0, 0, 0, before.total())


def test_a_moved_row_is_neither_added_nor_removed(place: Place) -> None:
    rows = place.source(numbered(4))
    whole, split = place.prepare(rows), place.prepare(rows, validation=0.3)
    difference = diff(whole, split)
    assert (difference.added, difference.removed) == (0, 0)
    assert difference.moved == split.rows["validation"] > 0
    assert all(name.startswith(rows["source"]) for name in difference.moved_rows)
