"""A gate rests on a judge only where its agreement with people is known, of this very judge, and high enough."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.errors import InputError
from llmops.eval.compare import compare
from llmops.eval.gates import Gate
from llmops.eval.items import suite_digest
from llmops.eval.judge.calibration import Calibration, calibrate
from llmops.eval.judge.gated import standing
from llmops.eval.measured import Measured
from llmops.eval.metric import Metric, mean_of
from llmops.eval.suite import Suite
from llmops.eval.verdict import judge as decide
from llmops.eval.verdict import lines
from llmops.events import Silent
from llmops.files import digest_of
from llmops.records import Verdict
from llmops.stats import wilson
from tests.conftest import REPOSITORY as ROOT
from tests.eval.judge.test_calibration import made
from tests.eval.measurements import measured


def calibration(follows: float = 0.9) -> Calibration:
    return calibrate(*made(200, follows=follows), listener=Silent())


def report(found: Calibration | None, **others: Any) -> Measured:
    values = np.random.default_rng(0).uniform(0.6, 1, 100).tolist()
    judged = {
        "model": "j",
        "digest": made(1)[0].digest,
        "minimum_agreement": 0.6,
        "calibration": None if found is None else found.plain(),
        "counts": {"unparsed_share": [2, 100], "first_share": [0, 0]},
        **others,
    }
    measures = {"judge_unparsed_share": 0.02, "latency_p95_ms": 1.0}
    return replace(
        measured([mean_of("judge", "v1", values, span=1.0), mean_of("rougeL", "v1", values)], measures=measures),
        judges={"judge": judged},
    )


def ask(found: Measured, **rule: Any) -> Verdict:
    wanted = {"suite": "s", "metric": "judge", "at_least": 0.5, **rule}
    gate = Gate.model_validate({"rules": [{key: value for key, value in wanted.items() if value is not None}]})
    return decide(gate, {"s": found}, {}, name="g", against=None)


def test_a_judge_that_agrees_passes_and_the_verdict_says_how_far() -> None:
    found = calibration()
    verdict = ask(report(found))
    assert verdict.result == "PASS"
    assert lines(verdict)[0][-1] == f"judge j: {found.sentence}"


def test_without_a_calibration_it_is_refused() -> None:
    with pytest.raises(InputError, match="how far its judge j agrees with people is not known"):
        ask(report(None))


def test_the_low_end_of_kappa_must_reach_what_the_scorer_or_the_rule_asks() -> None:
    found = calibration(0.6)
    low, value = found.kappa["low"] or 0.0, found.kappa["value"] or 0.0
    between = (low + value) / 2
    with pytest.raises(InputError, match="agrees too little with people: kappa"):
        ask(report(found, minimum_agreement=between))
    assert ask(report(found, minimum_agreement=low)).result == "PASS"
    assert ask(report(found, minimum_agreement=between), judge_agreement_at_least=low - 0.01).result == "PASS"
    with pytest.raises(InputError, match=r"must reach 0\.9"):
        ask(report(found, minimum_agreement=low), judge_agreement_at_least=0.9)


def test_a_calibration_of_another_judge_or_one_that_was_changed_is_refused() -> None:
    with pytest.raises(InputError, match="not of the judge that made it"):
        ask(report(calibration(), digest=digest_of("another prompt")))
    forged = {**calibration(0.2).plain(), "kappa": {"value": 0.9, "low": 0.8, "high": 1.0}}
    with pytest.raises(InputError, match="was changed after it was written"):
        ask(report(None, calibration=forged))


def test_other_numbers_of_the_report_need_none() -> None:
    assert ask(report(None), metric="rougeL").result == "PASS"
    with pytest.raises(InputError, match="no judge made it"):
        ask(report(None), metric="rougeL", judge_agreement_at_least=0.5)
    with pytest.raises(ValueError, match="goes with a `metric`"):
        ask(report(None), metric=None, measure="judge_unparsed_share", judge_agreement_at_least=0.5)


def test_a_judges_shares_are_shares_of_items_with_their_uncertainty() -> None:
    verdict = ask(report(None), metric=None, measure="judge_unparsed_share", at_most=0.1, at_least=None)
    (rule,) = verdict.rules
    assert (rule["low"], rule["high"]) == pytest.approx(wilson(2, 100, 0.95))


def test_a_calibration_that_comes_later_leaves_the_suite_as_it_was_but_not_its_standing(tmp_path: Path) -> None:
    rubric, prompt = ROOT / "feedback/rubrics/fluency.yaml", ROOT / "eval/judges/rating.md"
    judge = {"rubric": str(rubric), "prompt": str(prompt), "endpoint": "http://h/v1", "model": "m"}
    file = tmp_path / "c.json"
    file.write_text(json.dumps(calibration().plain()))

    def suite(*scorers: dict[str, Any]) -> Suite:
        items = {"source": "s.csv", "prompt": "{q}", "references": "{a}"}
        return Suite.model_validate({"name": "s", "items": items, "scorers": list(scorers)})

    before, after = suite({"judge": judge}), suite({"judge": {**judge, "calibration": str(file)}})
    assert suite_digest(before, []) == suite_digest(after, [])
    assert standing(before) != standing(after)
    assert standing(suite({"bleu": {}})) == ""


def test_a_slice_in_which_the_judge_gave_no_verdict_decides_nothing() -> None:
    half = [1.0] * 50
    each = np.array([*half, *[np.nan] * 50])
    there = ~np.isnan(each)
    metric = Metric("judge", "v1", "mean", np.stack([np.nan_to_num(each), there * 1.0], axis=1), each, span=1.0)
    slices = [{"half": "a" if place < 50 else "b"} for place in range(100)]
    found = replace(measured([metric], slices=slices), judges=report(calibration()).judges)
    verdict = ask(found, per_slice=True)
    assert [(rule["rule"], rule["result"], rule["value"]) for rule in verdict.rules] == [
        ("s judge ≥ 0.5", "PASS", 1.0),
        ("s judge [half=a] ≥ 0.5", "PASS", 1.0),
        ("s judge [half=b] ≥ 0.5", "INCONCLUSIVE", None),
    ]
    assert compare(found, found).of("judge", "half=b").finding == "inconclusive"
