"""Preferences and labelled answers go through the same checks and the same split as conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmops.data.assembly import SPLITS
from llmops.data.formats import prompt_key
from llmops.data.section import DataSection
from llmops.data.versions import diff, prepare, rows_of
from llmops.records import DatasetVersion

Cells = Mapping[str, Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def prepared(
    place: Path,
    source: dict[str, Any],
    validation: float = 0.0,
    held_out: Mapping[str, Sequence[str]] = {},
    **checks: Any,
) -> DatasetVersion:
    checks = {"near_duplicates": "keep", **checks}
    section = DataSection.model_validate({"train": [source], "validation": validation, "checks": checks})
    return prepare(section, objects=place / "objects", cache=place / "cache", held_out=held_out)


def written(place: Path, rows: Sequence[Cells], name: str) -> str:
    path = place / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question number {number}, what do you say to it?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pairs(place: Path, rows: Sequence[Cells], name: str = "pairs.jsonl") -> dict[str, Any]:
    return {"source": written(place, rows, name), "prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}"}


def labelled(place: Path, rows: Sequence[Cells], name: str = "labelled.jsonl") -> dict[str, Any]:
    return {"source": written(place, rows, name), "prompt": "{prompt}", "completion": "{completion}", "label": "label"}


def test_all_pairs_of_a_prompt_are_on_one_side(place: Path) -> None:
    """With what exports write beside: a margin and other columns are left alone."""
    rows = [
        {"prompt": asked(number), "chosen": said(f"good {one}"), "rejected": said(f"bad {one}"), "margin": 0.5}
        for number in range(30)
        for one in range(3)
    ]
    version = prepared(place, pairs(place, rows), validation=0.3)
    sides = {split: {prompt_key(row) for row in rows_of(version, split)} for split in SPLITS}
    assert version.rows["train"] + version.rows["validation"] == 90
    assert version.rows["validation"] % 3 == 0
    assert sides["train"]
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]


def test_the_same_pair_twice_is_a_duplicate_and_the_other_way_round_is_none(place: Path) -> None:
    one = {"prompt": asked(1), "chosen": said("good"), "rejected": said("bad")}
    turned = {"prompt": asked(1), "chosen": said("bad"), "rejected": said("good")}
    plain = {"prompt": asked(1)[0]["content"], "chosen": "good", "rejected": "bad"}
    version = prepared(place, pairs(place, [one, turned, plain]))
    assert version.rows == {"train": 2, "validation": 0, "dropped": 1}


def test_one_answer_with_both_labels_is_no_duplicate(place: Path) -> None:
    rows = [{"prompt": asked(1), "completion": said("so"), "label": label} for label in (True, False, True)]
    version = prepared(place, labelled(place, rows))
    assert [row.content["label"] for row in rows_of(version, "train")] == [True, False]


def test_personal_data_in_an_answer_is_found_and_redacted(place: Path) -> None:
    rows = [
        {"prompt": asked(1), "completion": said("write to jane.doe@example.org"), "label": True},
        {"prompt": asked(2), "completion": said("no"), "label": False},
    ]
    version = prepared(place, labelled(place, rows), personal_data="redact")
    (found,) = [one for one in version.findings if one.check == "personal data"]
    assert found.named[0].endswith(":1: e-mail address in the completion")
    assert "jane.doe" not in (version.folder / "train.jsonl").read_text()


def test_a_preference_whose_prompt_or_answer_is_an_item_of_a_suite_is_dropped(place: Path) -> None:
    words = " ".join(f"word{number}" for number in range(20))
    rows = [
        {"prompt": asked(1), "chosen": said("good"), "rejected": said("bad")},
        {"prompt": asked(2), "chosen": said(words), "rejected": said("bad")},
        {"prompt": asked(3), "chosen": said("good"), "rejected": said("bad")},
    ]
    held_out = {"suite": [asked(1)[0]["content"], f"please repeat: {words}"]}
    version = prepared(place, pairs(place, rows), held_out=held_out, contamination=["suite"])
    assert version.rows["dropped"] == 2
    assert [row.line for row in rows_of(version, "train")] == [3]


def test_versions_of_preferences_are_compared_row_by_row(place: Path) -> None:
    rows = [{"prompt": asked(number), "chosen": said("good"), "rejected": said("bad")} for number in range(4)]
    before = prepared(place, pairs(place, rows))
    changed = {**rows[0], "chosen": said("better")}
    after = prepared(place, pairs(place, [changed, *rows[1:]], "other.jsonl"))
    found = diff(before, after)
    assert (found.added, found.removed, found.unchanged) == (1, 1, 3)
