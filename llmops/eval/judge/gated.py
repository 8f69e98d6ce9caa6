"""When a gate may rest on a judge: where people were asked the same, and it agrees with them well enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmops.errors import InputError
from llmops.eval.gates import Gate, Rule
from llmops.eval.judge.calibration import Calibration, from_record, read
from llmops.eval.measured import Measured
from llmops.eval.scorers.judge import JudgeScorer
from llmops.eval.scorers.reward import RewardScorer
from llmops.eval.suite import Suite
from llmops.files import digest_of, file_digest


def judge_agreement(rule: Rule, report: Measured) -> str:
    """How far the judge behind a rule's metric agrees with people, in words; empty where no judge made it.

    Raises:
        InputError: that is not known, or less than the rule asks for; or the rule asks it of no judge.
    """
    made = report.judges.get(str(rule.metric))
    if made is None:
        if rule.judge_agreement_at_least is not None:
            raise InputError(
                f"the gate asks how far the judge of {rule.number} agrees with people, and no judge made it",
                fix="take judge_agreement_at_least out of the rule",
            )
        return ""
    record = made["calibration"]
    found = None if record is None else from_record(record, f"the calibration in the report on {rule.suite}")
    if found is not None and found.judge_digest != made["digest"]:
        raise InputError(
            f"the calibration in the report on {rule.suite} is not of the judge that made it",
            fix="evaluate the model again with `llmops eval`",
        )
    return _agrees(rule, str(made["model"]), found, minimum=made["minimum_agreement"])


def check_judges(gate: Gate, suites: Sequence[Suite]) -> None:
    """Refuse a gate that rests on a judge who is not known to agree with people, before anything is measured.

    Raises:
        InputError: as `judge_agreement`.
    """
    judges = {
        (suite.name, one.chosen.name): one.chosen
        for suite in suites
        for one in suite.scorers
        if isinstance(one.chosen, JudgeScorer)
    }
    _check_rewards(gate, suites)
    for rule in gate.rules:
        if isinstance(rule, Rule) and (scorer := judges.get((rule.suite, str(rule.metric)))) is not None:
            found = None if scorer.calibration is None else read(Path(scorer.calibration))
            _agrees(rule, scorer.model, found, minimum=scorer.minimum_agreement)


def _check_rewards(gate: Gate, suites: Sequence[Suite]) -> None:
    """Refuse a gate that rests on rewards and does not ask how often their model orders answers as people did."""
    models = {
        (suite.name, one.chosen.name): one.chosen
        for suite in suites
        for one in suite.scorers
        if isinstance(one.chosen, RewardScorer)
    }
    rules = [rule for rule in gate.rules if isinstance(rule, Rule)]
    asked = {(rule.suite, str(rule.measure)) for rule in rules}
    for rule in rules:
        scorer = models.get((rule.suite, str(rule.metric)))
        if scorer is not None and (rule.suite, scorer.accuracy_measure) not in asked:
            raise InputError(
                f"the gate rests on {rule.number}, and asks nothing of how often its reward model orders answers as "
                "people did",
                fix=f"add a rule such as {{suite: {rule.suite}, measure: {scorer.accuracy_measure}, at_least: 0.7}}",
            )


def standing(suite: Suite) -> str:
    """Stands for what `suite_digest` leaves out: what people said to a suite's judges as it is now, since a judge that
    is calibrated later has measured the same, and which bytes the names of its reward models stand for. Empty where
    the suite has neither."""
    judges = [one.chosen for one in suite.scorers if isinstance(one.chosen, JudgeScorer)]
    rewards = [one.chosen.found.signature for one in suite.scorers if isinstance(one.chosen, RewardScorer)]
    if rewards:
        return digest_of([rewards, _said(judges)])
    return _said(judges)


def _said(judges: Sequence[JudgeScorer]) -> str:
    if not judges:
        return ""
    files = [file for one in judges for file in (one.calibration, one.ratings)]
    held = [file_digest(Path(file)) if file is not None and Path(file).is_file() else file for file in files]
    return digest_of([held, [one.minimum_agreement for one in judges]])


def _agrees(rule: Rule, model: str, found: Calibration | None, *, minimum: float) -> str:
    """The agreement of the judge called `model`, in words; raises InputError where it is not enough."""
    if found is None:
        raise InputError(
            f"the gate rests on {rule.number}, and how far its judge {model} agrees with people is not known",
            fix="rate some answers, run `llmops judge calibrate`, and name its file as the scorer's `calibration`",
        )
    wanted = minimum if rule.judge_agreement_at_least is None else rule.judge_agreement_at_least
    low = found.kappa["low"]
    if low is None or low < wanted:
        raise InputError(
            f"the gate rests on {rule.number}, and its judge {model} agrees too little with people: "
            f"{found.sentence}, whose low end must reach {wanted:g}",
            fix="rate more answers, or take a better judge or prompt; `llmops judge calibrate` says what changed",
        )
    return f"judge {model}: {found.sentence}"
