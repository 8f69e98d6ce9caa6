"""From a gate's rules and a model's reports to PASS, FAIL or INCONCLUSIVE.

A rule passes when its whole interval lies on the right side of its bound, and a gate when all its rules do: then a
wrong pass of the gate is no likelier than of its single rules (an intersection-union test, Berger 1982), so passes
need no correction. A wrong FAIL would become likelier with every rule and slice; a rule fails only where its p,
adjusted for all of them (Holm), is below the error of one side of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from llmops.errors import InputError, nearest
from llmops.eval.compare import changed_share, check_comparable, in_order_of, weights_ratio
from llmops.eval.gaps import Gap
from llmops.eval.gates import (
    AnyRule,
    AtLeast,
    AtMost,
    BetterBy,
    ChangedAtMost,
    ContaminatedAtMost,
    GapAtMost,
    Gate,
    NoWorseBy,
    Rule,
    ServedEquals,
    WeightsAtMost,
)
from llmops.eval.judge.gated import judge_agreement
from llmops.eval.measured import ALL, Measured
from llmops.eval.measures import measure_estimate
from llmops.eval.metric import Groups, differences, estimates
from llmops.eval.parity import Parity
from llmops.records import Verdict
from llmops.registry.verdicts import sealed
from llmops.stats import Estimate, Exact, holm, items_to_decide, one_sided_p

Result = Literal["PASS", "FAIL", "INCONCLUSIVE"]
EXIT_CODES: Mapping[str, int] = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}


@dataclass(frozen=True, slots=True)
class Question:
    """One rule asked of one group of items.

    Attributes:
        rule: as people read it.
        bound: what the estimate must be on the right side of.
        above: that side is above the bound.
        estimate: None where the rule compares and there is nothing to compare with.
        known: what a reader should know of the number, such as how far its judge agrees with people.
    """

    rule: str
    bound: float
    above: bool
    estimate: Estimate | None
    known: str = ""


def judge(
    gate: Gate,
    reports: Mapping[str, Measured],
    others: Mapping[str, Measured],
    *,
    name: str,
    against: str | None,
    parities: Mapping[str, Parity] | None = None,
    contaminated: Mapping[str, float] | None = None,
) -> Verdict:
    """The verdict of `gate` on the model of `reports`.

    Args:
        reports: the model's, by the suite's name.
        others: those of the version it is compared with; empty where there is none yet.
        name: of the gate, as people know it.
        against: that version; None where there is none.
        parities: what is served against what was trained, by the suite's name, where a rule asks for it.
        contaminated: share of each suite's prompts that the model was trained on, by the suite's name, likewise.

    Raises:
        InputError: a rule asks for a suite, metric or measure that was not measured, or for a judge's metric whose
            agreement with people is not known or too small; or the reports of the two models cannot be compared.
    """
    check_gate(gate, {suite: [metric.name for metric in report.metrics] for suite, report in reports.items()})
    parities = parities or {}
    evidence = _Evidence(reports, others, parities, contaminated or {})
    questions = [question for rule in gate.rules for question in _questions(rule, evidence)]
    # Where the value lies on the right side there is nothing that could fail.
    ps = holm([_p_of_failure(question) for question in questions])
    rules = [_answer(question, p, gate.confidence) for question, p in zip(questions, ps, strict=True)]
    results = {rule["result"] for rule in rules}
    result: Result = "FAIL" if "FAIL" in results else "INCONCLUSIVE" if "INCONCLUSIVE" in results else "PASS"
    models = {str(report.model["digest"]) for report in reports.values()}
    if len(models) != 1:
        raise ValueError(f"reports of {len(models)} models cannot be one verdict")
    asked = dict.fromkeys(rule.suite for rule in gate.rules)
    return sealed(
        {
            "result": result,
            "gate": name,
            "model_digest": models.pop(),
            "against": against,
            "confidence": gate.confidence,
            "rules": rules,
            "reports": [
                by_suite[suite].digest
                for suite in asked
                for by_suite in (reports, others, parities)
                if suite in by_suite
            ],
            "code_version": version("llmops"),
        }
    )


def check_gate(gate: Gate, metrics: Mapping[str, Collection[str]]) -> None:
    """Refuse a gate that asks for what will not be measured, before anything is.

    Args:
        metrics: names of the metrics of each suite, by the suite's name.

    Raises:
        InputError: it names another suite or metric, or compares a measure; the nearest name is given.
    """
    for rule in gate.rules:
        if rule.suite not in metrics:
            raise InputError(
                f"the gate asks for the suite {rule.suite}, which was not measured{nearest(rule.suite, metrics)}",
                fix=f"measure it too, or take the rule out; measured: {', '.join(metrics) or 'nothing'}",
            )
        if not isinstance(rule, Rule | GapAtMost):
            continue
        known = metrics[rule.suite]
        if rule.metric is not None and rule.metric not in known:
            raise InputError(
                f"the gate asks for {rule.metric}, which {rule.suite} does not measure{nearest(rule.metric, known)}",
                fix=f"use one of its metrics: {', '.join(known)}",
            )
        if isinstance(rule, NoWorseBy | BetterBy) and rule.measure is not None:
            raise InputError(
                f"the gate compares the measure {rule.measure} with another model's",
                fix=f"give {rule.measure} a fixed bound with at_least or at_most",
            )


_INSIDE: Mapping[type, str] = {
    ServedEquals: "served_equals",
    ContaminatedAtMost: "contaminated_at_most",
    WeightsAtMost: "weights_at_most",
}


def check_without_model(gate: Gate) -> None:
    """Raises InputError where a rule looks into the model, which stands elsewhere."""
    for rule in gate.rules:
        if (key := next((key for kind, key in _INSIDE.items() if isinstance(rule, kind)), None)) is not None:
            raise InputError(
                f"the gate's rule {key} looks into the model, and only its answers are here",
                fix="judge the model itself, without --answers and --endpoint, or take the rule out",
            )


# Questions


@dataclass(frozen=True, slots=True)
class _Evidence:
    """All that rules ask of, by the suite's name."""

    reports: Mapping[str, Measured]
    others: Mapping[str, Measured]
    parities: Mapping[str, Parity]
    contaminated: Mapping[str, float]


def _questions(rule: AnyRule, evidence: _Evidence) -> Iterator[Question]:
    if isinstance(rule, ServedEquals):
        for number, bound in rule.served_equals.bounds.items():
            words = f"{rule.suite} served equals trained: {number} ≤ {bound:g}"
            yield Question(words, bound, False, evidence.parities[rule.suite].estimate(number))
        return
    if isinstance(rule, ContaminatedAtMost):
        share, bound = evidence.contaminated[rule.suite], rule.contaminated_at_most
        yield Question(f"{rule.suite} contaminated ≤ {bound:g}", bound, False, Exact(share))
        return
    report = evidence.reports[rule.suite]
    if isinstance(rule, ChangedAtMost | WeightsAtMost):
        yield _of_change(rule, report, evidence.others.get(rule.suite))
        return
    if isinstance(rule, GapAtMost):
        yield _of_gap(rule, report)
        return
    if rule.measure is not None:
        yield _of_measure(rule, report)
        return
    metric = report.metric(str(rule.metric))
    assert metric is not None, "check_gate has looked"
    if rule.per_slice and not metric.by_item:
        raise InputError(
            f"the gate asks for {metric.name} of every slice, but it is only known of all items together",
            fix="take `per_slice` out of the rule, or use a metric that has a value for each item",
        )
    known = judge_agreement(rule, report)
    groups: Groups = report.groups if rule.per_slice else {ALL: report.groups[ALL]}
    sign = 1.0 if metric.better == "higher" else -1.0
    if isinstance(rule, AtLeast | AtMost):
        found = estimates([metric], groups, report.clusters)
        bound, above = (rule.at_least, True) if isinstance(rule, AtLeast) else (rule.at_most, False)
        for group in groups:
            words = f"{_where(rule, group)} {'≥' if above else '≤'} {bound:g}"
            yield Question(words, bound, above, found[group][metric.name], known)
        return
    allowed = -rule.no_worse_by if isinstance(rule, NoWorseBy) else rule.better_by
    what = f"no worse by {rule.no_worse_by:g}" if isinstance(rule, NoWorseBy) else f"better by {rule.better_by:g}"
    other = evidence.others.get(rule.suite)
    if other is None:
        for group in groups:
            yield Question(f"{_where(rule, group)} {what}", sign * allowed, sign > 0, None, known)
        return
    check_comparable(report, other)
    before = in_order_of(report, other).metric(metric.name)
    assert before is not None
    found = differences([before], [metric], groups, report.clusters)
    for group in groups:
        yield Question(f"{_where(rule, group)} {what}", sign * allowed, sign > 0, found[group][metric.name], known)


def _where(rule: Rule, group: str) -> str:
    return rule.number + (f" [{group}]" if group != ALL else "")


def _of_change(rule: ChangedAtMost | WeightsAtMost, report: Measured, other: Measured | None) -> Question:
    if isinstance(rule, ChangedAtMost):
        words = f"{rule.suite} changed answers ≤ {rule.changed_at_most:g}"
        if other is None:
            return Question(words, rule.changed_at_most, False, None)
        return Question(words, rule.changed_at_most, False, changed_share(other, report))
    words = f"{rule.suite} weights ≤ {rule.weights_at_most:g} of the other's"
    if other is None:
        return Question(words, rule.weights_at_most, False, None)
    return Question(words, rule.weights_at_most, False, Exact(weights_ratio(other, report)))


def _of_gap(rule: GapAtMost, report: Measured) -> Question:
    parts = {name: members for name, members in report.groups.items() if name.startswith(f"{rule.between}=")}
    if len(parts) < 2:
        known = sorted({name.partition("=")[0] for name in report.groups if name != ALL})
        raise InputError(
            f"the gate asks for the gap between slices of {rule.between}, and {rule.suite} has "
            f"{'one' if parts else 'none'}{nearest(rule.between, known)}",
            fix=f"use one of its breakdowns: {', '.join(known)}" if known else "give the suite `slices`",
        )
    metric = report.metric(rule.metric)
    assert metric is not None, "check_gate has looked"
    found = estimates([metric], parts, report.clusters)
    words = f"{rule.suite} {rule.metric} between slices of {rule.between} ≤ {rule.gap_at_most:g} apart"
    return Question(words, rule.gap_at_most, False, Gap({name: found[name][metric.name] for name in parts}))


def _of_measure(rule: Rule, report: Measured) -> Question:
    name = str(rule.measure)
    if name not in report.measures:
        raise InputError(
            f"the gate asks for {name}, which the report on {rule.suite} does not hold{nearest(name, report.measures)}",
            fix=f"use one of: {', '.join(report.measures)}",
        )
    assert isinstance(rule, AtLeast | AtMost), "check_gate has looked"
    above = isinstance(rule, AtLeast)
    bound = rule.at_least if isinstance(rule, AtLeast) else rule.at_most
    return Question(f"{rule.number} {'≥' if above else '≤'} {bound:g}", bound, above, measure_estimate(report, name))


# Answers


def _p_of_failure(question: Question) -> float:
    estimate = question.estimate
    if estimate is None or _right(question, estimate.value):
        return 1.0
    return one_sided_p(estimate, question.bound)


def _right(question: Question, value: float) -> bool:
    return value >= question.bound if question.above else value <= question.bound


def _answer(question: Question, p: float, confidence: float) -> dict[str, Any]:
    estimate = question.estimate
    if estimate is None:
        return {
            "rule": question.rule,
            "value": None,
            "low": None,
            "high": None,
            "bound": question.bound,
            "result": "PASS",
            "note": "; ".join(filter(None, ["nothing to compare with", question.known])),
        }
    low, high = estimate.interval(confidence)
    note = ""
    if _right(question, low) and _right(question, high):
        result = "PASS"
    elif p <= (1 - confidence) / 2:
        result = "FAIL"
    else:
        result = "INCONCLUSIVE"
        needed = items_to_decide(estimate, question.bound, confidence=confidence)
        note = (
            "no number of items decides: the value is at the bound"
            if needed is None
            else f"about {needed - estimate.clusters:,} more items would decide"
        )
    return {
        "rule": question.rule,
        # JSON has no NaN: of a slice in which no item has a value, none is known.
        "value": estimate.value if math.isfinite(estimate.value) else None,
        "low": low if math.isfinite(low) else None,
        "high": high if math.isfinite(high) else None,
        "bound": question.bound,
        "result": result,
        "note": "; ".join(filter(None, [note, question.known])),
    }


def lines(verdict: Verdict) -> Sequence[tuple[str, str, str, str, str]]:
    """Result, rule, value, interval and note of every rule, as people read them."""
    shown = []
    for rule in verdict.rules:
        if rule["value"] is None:
            shown.append((rule["result"], rule["rule"], "", "", rule["note"]))
            continue
        ends = [
            "−∞" if rule["low"] is None else f"{rule['low']:.4g}",
            "∞" if rule["high"] is None else f"{rule['high']:.4g}",
        ]
        shown.append((rule["result"], rule["rule"], f"{rule['value']:.4g}", f"{ends[0]} to {ends[1]}", rule["note"]))
    return shown
