"""The table shows models side by side, and only what was measured in the same way."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from llmops.errors import InputError
from llmops.eval.report import Line, lines, table, to_markdown
from llmops.records import Report, Score

BASE = Report(
    suite="e2e",
    model="builtin:tiny",
    digest="1",
    items=630,
    scores=(Score("bleu", 3.25, "lc"), Score("rougeL", 0.125, "f1")),
    measures={"truncated_share": 0.25, "empty_share": 0.0, "tokens_per_s": 1000.0},
    suite_digest="s",
    model_digest="b",
)
TUNED = replace(
    BASE,
    model="runs/e2e",
    scores=(Score("bleu", 32.75, "lc"), Score("rougeL", 0.0625, "f1")),
    measures={"truncated_share": 0.0, "empty_share": 0.0, "tokens_per_s": 900.0},
    model_digest="t",
)


def test_each_metric_is_a_line_with_the_second_model_less_the_first() -> None:
    assert lines([BASE, TUNED]) == [
        Line("e2e", "bleu", ("3.25", "32.75"), "+29.50"),
        Line("e2e", "rougeL", ("0.1250", "0.0625"), "-0.0625"),
        Line("e2e", "truncated", ("25.0%", "0.0%"), "-25.0%"),
        Line("e2e", "tokens/s", ("1000.00", "900.00"), "-100.00"),
        Line("e2e", "items", ("630", "630"), ""),
    ]


def test_alarms_are_shown_where_they_ring() -> None:
    assert {line.name for line in lines([BASE])}.isdisjoint({"refused", "toxic words", "empty"})
    rude = replace(BASE, measures={"refusal_share": 0.25, "toxic_share": 0.5, "empty_share": 0.0})
    assert [(line.name, line.values) for line in lines([rude])][-3:-1] == [
        ("refused", ("25.0%",)),
        ("toxic words", ("50.0%",)),
    ]


def test_one_model_or_three_have_no_difference() -> None:
    third = replace(TUNED, model="other", model_digest="o")
    assert {line.difference for line in lines([BASE])} == {""}
    assert {line.difference for line in lines([BASE, TUNED, third])} == {""}
    assert "difference" not in to_markdown([BASE]) + to_markdown([BASE, TUNED, third])


def test_a_suite_that_only_one_model_was_measured_on_leaves_the_other_empty() -> None:
    other = replace(TUNED, suite="second", suite_digest="z")
    found = [line for line in lines([BASE, TUNED, other]) if line.suite == "second"]
    assert found[0] == Line("second", "bleu", ("", "32.75"), "")
    assert found[-1] == Line("second", "items", ("", "630"), "")


def test_two_states_of_one_folder_are_two_columns() -> None:
    later = replace(TUNED, model=BASE.model)
    assert lines([BASE, later])[0].values == ("3.25", "32.75")
    assert "| builtin:tiny b | builtin:tiny t | difference |" in to_markdown([BASE, later])


def test_the_table_and_the_markdown_say_the_same() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(table([BASE, TUNED]))
    shown = [line.split() for line in console.export_text().splitlines()]
    assert shown[0] == ["suite", "metric", "builtin:tiny", "runs/e2e", "difference"]
    assert shown[1] == ["e2e", "bleu", "3.25", "32.75", "+29.50"]
    assert shown[2] == ["rougeL", "0.1250", "0.0625", "-0.0625"]
    marked = to_markdown([BASE, TUNED]).splitlines()
    assert marked[:3] == [
        "| suite | metric | builtin:tiny | runs/e2e | difference |",
        "| --- | --- | ---: | ---: | ---: |",
        "| e2e | bleu | 3.25 | 32.75 | +29.50 |",
    ]
    assert len(marked) == 1 + len(shown)


def test_a_model_cannot_break_out_of_the_table() -> None:
    assert r"a\|b" in to_markdown([replace(BASE, model="a|b")])
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(table([replace(BASE, model="runs/[red]x[/red]")]))
    assert "runs/[red]x[/red]" in console.export_text()


def test_reports_of_a_suite_that_changed_between_them_are_refused() -> None:
    with pytest.raises(InputError, match="measure different things"):
        lines([BASE, replace(TUNED, suite_digest="changed")])


def test_scores_with_different_signatures_are_refused() -> None:
    cased = replace(TUNED, scores=(Score("bleu", 32.75, "mixed"),))
    with pytest.raises(InputError, match="bleu of runs/e2e was computed as mixed, of builtin:tiny as lc"):
        lines([BASE, cased])
