"""A gate is a list of rules, each a bound on one number of one suite; what is wrong in its file is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import load
from llmops.errors import FileFaults, InputError
from llmops.eval.gates import (
    AtLeast,
    AtMost,
    BetterBy,
    ChangedAtMost,
    ContaminatedAtMost,
    Distance,
    Gate,
    NoWorseBy,
    ServedEquals,
    WeightsAtMost,
    over_suites,
)

SHIPPED = Path(__file__).parents[2] / "eval" / "gates" / "e2e.yaml"


def gate_of(folder: Path, text: str) -> Gate:
    path = folder / "gate.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, Gate, what="gate")


def test_the_shipped_gate_loads_as_it_stands() -> None:
    gate = load(SHIPPED, Gate, what="gate")
    assert (gate.against, gate.confidence) == ("champion", 0.95)
    assert gate.rules == [
        AtLeast(suite="e2e", metric="bleu", at_least=25),
        NoWorseBy(suite="e2e", metric="bleu", no_worse_by=1.0),
        NoWorseBy(suite="e2e", metric="rougeL", no_worse_by=0.02, per_slice=True),
        AtMost(suite="e2e", measure="latency_p95_ms", at_most=2000),
    ]


def test_a_rule_that_asks_for_a_gain_needs_a_model_to_compare_with(tmp_path: Path) -> None:
    rule = "rules: [{suite: s, metric: bleu, better_by: 0.5}]"
    assert gate_of(tmp_path, f"against: champion\n{rule}").rules == [BetterBy(suite="s", metric="bleu", better_by=0.5)]
    with pytest.raises(FileFaults, match="line 1: rules: entry 0 compares two models"):
        gate_of(tmp_path, rule)


def test_rules_on_what_is_served_and_on_the_training_data(tmp_path: Path) -> None:
    found = gate_of(
        tmp_path,
        "rules:\n  - {suite: s, served_equals: {kl: 0.05, flips: 0.02}}\n  - {suite: s, contaminated_at_most: 0}\n",
    )
    assert found.rules == [
        ServedEquals(suite="s", served_equals=Distance(kl=0.05, flips=0.02)),
        ContaminatedAtMost(suite="s", contaminated_at_most=0.0),
    ]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        pytest.param("{suite: s, served_equals: {}}", "give `kl`, `flips` or both", id="no distance"),
        pytest.param("{suite: s, served_equals: {kll: 1}}", "did you mean `kl`?", id="a misspelt distance"),
        pytest.param("{suite: s, metric: bleu}", "a rule needs one of at_least", id="no bound"),
        pytest.param("{suite: s, metric: bleu, at_least: 1, at_most: 2}", "at_most: no such key", id="two bounds"),
        pytest.param("{suite: s, metric: bleu, at_leest: 1}", "did you mean `at_least`?", id="a misspelt bound"),
        pytest.param("{suite: s, metric: bleu, at_least: 1, persclice: true}", "`per_slice`?", id="a misspelt key"),
        pytest.param("{suite: s, at_least: 1}", "either `metric` or `measure`", id="no number"),
        pytest.param(
            "{suite: s, metric: a, measure: b, at_least: 1}", "either `metric` or `measure`", id="two numbers"
        ),
        pytest.param("{suite: s, measure: b, at_least: 1, per_slice: true}", "goes with a `metric`", id="slices"),
        pytest.param("{suite: s, metric: a, no_worse_by: -1}", "greater than or equal to 0", id="a negative margin"),
        pytest.param("{metric: bleu, at_least: 1}", "suite: missing", id="no suite"),
        pytest.param("7", "a rule needs one of at_least", id="no mapping"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_on_its_line(tmp_path: Path, rule: str, says: str) -> None:
    with pytest.raises(FileFaults) as caught:
        gate_of(tmp_path, f"against: champion\nrules:\n  - {{suite: s, metric: bleu, at_least: 1}}\n  - {rule}\n")
    assert says in str(caught.value)
    assert {fault.line for fault in caught.value.faults} == {4}


@pytest.mark.parametrize(
    "text",
    [
        "rules: []",
        "against: champoin\nrules: [{suite: s, metric: m, at_least: 1}]",
        "confidence: 1.0\nrules: [{suite: s, metric: m, at_least: 1}]",
        "against: ''",
    ],
)
def test_a_gate_without_rules_or_with_certainty_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileFaults):
        gate_of(tmp_path, text)


def test_a_rule_for_every_suite_is_one_of_each_that_has_its_metric(tmp_path: Path) -> None:
    gate = gate_of(
        tmp_path,
        'against: original\nrules:\n  - {suite: "*", metric: bleu, no_worse_by: 1}\n'
        '  - {suite: "*", changed_at_most: 0.2}\n  - {suite: one, weights_at_most: 0.5}\n',
    )
    found = over_suites(gate, {"one": ["bleu"], "two": ["exact_match"]})
    assert found.rules == [
        NoWorseBy(suite="one", metric="bleu", no_worse_by=1),
        ChangedAtMost(suite="one", changed_at_most=0.2),
        ChangedAtMost(suite="two", changed_at_most=0.2),
        WeightsAtMost(suite="one", weights_at_most=0.5),
    ]
    with pytest.raises(InputError, match="none of the gate's rules is on what is measured"):
        over_suites(gate.model_copy(update={"rules": gate.rules[:1]}), {"two": ["exact_match"]})


@pytest.mark.parametrize("rule", ["changed_at_most: 0.1", "weights_at_most: 0.5"])
def test_a_rule_on_what_changed_needs_a_model_to_compare_with(tmp_path: Path, rule: str) -> None:
    with pytest.raises(FileFaults, match="entry 0 compares two models"):
        gate_of(tmp_path, f"rules: [{{suite: s, {rule}}}]")
