"""Graded answers are read from a csv, and refused where nothing can be learned from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.errors import InputError
from llmops.serve.routing.graded import FEWEST, graded, read_csv
from tests.conftest import REPOSITORY

PUBLISHED = REPOSITORY.parent / "shared" / "data" / "routing"
HEADER = ["prompt", "big", "tiny", "answer"]


def rows(number: int = 60) -> list[list[Any]]:
    return [[f"question {n}", "True", str(n % 2 == 0), "text"] for n in range(number)]


def written(folder: Path, body: list[list[Any]], header: list[str] = HEADER) -> Path:
    file = folder / "answers.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([header, *body])
    return file


def test_the_two_columns_of_grades_are_found_and_the_worse_is_the_small_model(tmp_path: Path) -> None:
    found = read_csv(written(tmp_path, rows()))
    assert (found.small_name, found.large_name, len(found)) == ("tiny", "big", 60)
    assert found.small.mean() == 0.5
    assert found.gaps.tolist() == [0.0, 1.0] * 30
    assert found.confidence is None


def test_columns_can_be_named(tmp_path: Path) -> None:
    body = [[*row, n / 60, 0.9] for n, row in enumerate(rows())]
    file = written(tmp_path, body, [*HEADER, "sure", "other"])
    with pytest.raises(InputError, match="which columns are grades cannot be told"):
        read_csv(file)
    found = read_csv(file, small="tiny", large="big", confidence="sure")
    assert found.confidence is not None
    np.testing.assert_allclose(found.confidence, np.arange(60) / 60)


def test_grades_are_words_or_numbers(tmp_path: Path) -> None:
    body = [
        [f"q{n}", ["1", "true", "TRUE", "1.0"][n % 4], ["0", "false", "0.25", "False"][n % 4], ""] for n in range(60)
    ]
    found = read_csv(written(tmp_path, body))
    assert found.large.tolist() == [1.0] * 60
    assert found.small[:4].tolist() == [0.0, 0.0, 0.25, 0.0]


def test_a_prompt_that_comes_twice_is_one_cluster(tmp_path: Path) -> None:
    found = read_csv(written(tmp_path, [*rows(), ["question 0", "True", "False", ""]]))
    assert found.clusters[-1] == found.clusters[0]
    assert len(set(found.clusters)) == 60


def test_named_prompts_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text('{"eval_prompt": "question 1"}\n\n{"prompt": "question 3"}\n')
    found = read_csv(written(tmp_path, [*rows(), [" ", "True", "True", ""]]), leave_out=out)
    assert (len(found), found.left_out) == (58, 3)
    assert not {"question 1", "question 3"} & set(found.prompts)


def test_the_digest_is_of_what_was_used(tmp_path: Path) -> None:
    one = read_csv(written(tmp_path, rows()))
    assert one.digest == read_csv(written(tmp_path, [[*row[:3], "other"] for row in rows()])).digest
    assert one.digest != read_csv(written(tmp_path, rows()[:-1])).digest


@pytest.mark.parametrize(
    ("body", "arguments", "said"),
    [
        pytest.param(rows(), {"prompt": "prompts"}, "did you mean `prompt`", id="a column misspelt"),
        pytest.param(rows(), {"small": "answer", "large": "big"}, "'text' in 'answer' is no grade", id="no grades"),
        pytest.param(
            [*rows(), ["q", "2", "True", ""]], {"small": "tiny", "large": "big"}, "'2' in 'big'", id="beyond 1"
        ),
        pytest.param([*rows(), ["q", "True"]], {"small": "tiny", "large": "big"}, "row 62 has 2 cells", id="short row"),
        pytest.param(rows(FEWEST - 1), {}, f"fewer than {FEWEST}", id="too few"),
        pytest.param(rows(), {"small": "big", "large": "tiny"}, "not worth anything", id="the wrong way round"),
        pytest.param([], {}, "cannot be told", id="no rows"),
    ],
)
def test_what_teaches_nothing_is_refused(
    tmp_path: Path, body: list[list[Any]], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        read_csv(written(tmp_path, body), **arguments)
    assert said in refused.value.problem


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b'"open'])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "answers.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError):
        read_csv(file)


@pytest.mark.parametrize("line", ["{", "{}", "[]", "7"])
def test_a_list_to_leave_out_must_name_prompts(tmp_path: Path, line: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(line)
    with pytest.raises(InputError, match="line 1 names no prompt"):
        read_csv(written(tmp_path, rows()), leave_out=out)


def test_confidences_count_only_where_all_are_known() -> None:
    body = [(f"q{n}", f"q{n}", 0.0, 1.0, 0.5 if n else None) for n in range(60)]
    assert graded("s", body, small="a", large="b").confidence is None


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published answers are not beside the repository")
def test_the_published_answers_are_read_as_published() -> None:
    """RouteLLM's GSM8K: 1,319 prompts, 12 of them contaminated."""
    contaminated = PUBLISHED / "gsm8k_contaminated_prompts.jsonl"
    found = read_csv(PUBLISHED / "gsm8k_responses.csv", leave_out=contaminated)
    assert (len(found), found.left_out) == (1307, 12)
    assert len(contaminated.read_text().splitlines()) == 12
    assert (found.small_name, found.large_name) == ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
    with (PUBLISHED / "gsm8k_responses.csv").open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert json.dumps(first["prompt"]) != json.dumps(found.prompts[0]), "the first one is contaminated"
