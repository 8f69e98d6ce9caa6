"""Row lengths are estimated from a few rows of each local source, with the base's tokenizer where it is here."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from llmops.config import load
from llmops.errors import InputError
from llmops.finetune.recipe import Recipe
from llmops.finetune.sampling import SAMPLE, sampled_lengths
from tests.finetune.plans import make_recipe
from tests.finetune.small_models import make_tokenizer


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b"), *rows])


def text_of(draw: random.Random, words: int) -> str:
    return " ".join("".join(draw.choices("abcdefgh", k=4)) for _ in range(words))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_tokenizer().save_pretrained(folder)
    return folder


def test_few_rows_are_all_counted_with_the_tokenizer(tmp_path: Path, base: Path) -> None:
    write_rows(tmp_path / "rows.csv", [("ab", "cde"), ("abcd", "fg")])
    found, notes = sampled_lengths(make_recipe(tmp_path), base)
    # A byte is a token; a BOS, and four tokens around each of two turns; an answer's end is trained.
    assert found.counts == ((1 + 4 + 2 + 4 + 3, 1.0), (1 + 4 + 4 + 4 + 2, 1.0))
    assert found.trained_tokens == (3 + 1) + (2 + 1)
    assert "tokenizer" in found.origin
    assert not found.exact
    assert notes == ()


def test_without_a_tokenizer_four_bytes_are_a_token(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [("a" * 40, "b" * 80)])
    found, _ = sampled_lengths(make_recipe(tmp_path), None)
    assert found.counts == ((1 + 8 + 10 + 20, 1.0),)
    assert "4 bytes" in found.origin


@pytest.mark.parametrize("rows", [SAMPLE - 10, 3000, 25_000])
def test_the_whole_is_extrapolated_from_a_sample(tmp_path: Path, rows: int) -> None:
    draw = random.Random(0)
    pairs = [(text_of(draw, draw.randint(1, 12)), text_of(draw, draw.randint(1, 6))) for _ in range(rows)]
    write_rows(tmp_path / "rows.csv", pairs)
    found, _ = sampled_lengths(make_recipe(tmp_path), None)
    true_tokens = sum(9 + max(1, round(len(a) / 4)) + max(1, round(len(b) / 4)) for a, b in pairs)
    assert found.rows == pytest.approx(rows, rel=0.02)
    assert found.tokens == pytest.approx(true_tokens, rel=0.1)


def test_held_out_rows_and_weights_are_taken_off_and_on(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [("ab", "cd")] * 100)
    found, _ = sampled_lengths(make_recipe(tmp_path, "data.validation=0.2", "data.train.0.weight=3"), None)
    assert found.rows == pytest.approx(100 * 0.8 * 3)


def test_taking_fewer_rows_counts_fewer(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [("ab", "cd")] * 100)
    found, _ = sampled_lengths(make_recipe(tmp_path, "data.train.0.take=30"), None)
    assert found.rows == pytest.approx(30)


def test_rows_that_are_too_long_are_left_out_and_said(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [("ab", "cd")] * 75 + [("ab", "c" * 4000)] * 25)
    found, notes = sampled_lengths(make_recipe(tmp_path, "batch.max_length=256"), None)
    assert found.rows == pytest.approx(75)
    assert found.longest <= 256
    assert "about 25% of" in notes[0]


def test_unusable_rows_are_not_counted(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [("ab", "cd")] * 30 + [("ab", "")] * 10)
    found, _ = sampled_lengths(make_recipe(tmp_path), None)
    assert found.rows == pytest.approx(30)


def test_plain_text_trains_all_but_its_first_token(tmp_path: Path, base: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"t": "abcdefg"}) + "\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: t\nbase: builtin:tiny\ndata: {{train: [{{source: {tmp_path / 'rows.jsonl'}, text: t}}]}}\n")
    found, _ = sampled_lengths(load(path, Recipe, what="recipe"), base)
    assert found.counts == ((8, 1.0),)
    assert found.trained_tokens == 7


def test_a_source_elsewhere_is_not_read_but_said(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "data.train.0.source=hub:org/name", "batch={sequences: 8, max_length: 128}")
    found, notes = sampled_lengths(recipe, None)
    assert found.counts == ((128, 8.0),), "one update of rows as long as they may be"
    assert "hub:org/name is not read" in notes[0]
    recipe = make_recipe(tmp_path, "data.train.0.source=hub:org/name", "data.train.0.take=500")
    assert sampled_lengths(recipe, None)[0].rows == 500


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows\.csv"):
        sampled_lengths(make_recipe(tmp_path), None)
