"""What a stage needs from another stage's files before it starts: suites and gates, loaded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmops.config import load
from llmops.data.section import DataSection
from llmops.eval.gates import Gate, over_suites
from llmops.eval.items import Item, items_of, prompts
from llmops.eval.judge.gated import check_judges
from llmops.eval.suite import Suite
from llmops.eval.verdict import check_gate
from llmops.finetune.recipe import Evaluate


def held_out(section: DataSection) -> dict[str, list[str]]:
    """The prompts of every suite that the section keeps apart from training, by the suite's name."""
    found: dict[str, list[str]] = {}
    for path in section.checks.contamination:
        suite = load(Path(path), Suite, what="suite")
        found[suite.name] = [*found.get(suite.name, ()), *prompts(suite)]
    return found


def suites_of(evaluate: Evaluate | None) -> list[tuple[Suite, Sequence[Item]]]:
    """The suites a recipe ends with, loaded and with their items, so that a fault shows before training."""
    if evaluate is None:
        return []
    suites = [load(Path(path), Suite, what="suite") for path in evaluate.suites]
    return [(suite, items_of(suite)) for suite in suites]


def gate_of(evaluate: Evaluate | None, suites: Sequence[tuple[Suite, Sequence[Item]]]) -> Gate | None:
    """The gate a recipe ends with, checked against what its suites measure; None where it has none.

    Raises:
        InputError: it has a fault, or asks for what will not be measured.
    """
    if evaluate is None or evaluate.gate is None:
        return None
    metrics = {suite.name: suite.metrics for suite, _ in suites}
    gate = over_suites(load(Path(evaluate.gate), Gate, what="gate"), metrics)
    check_gate(gate, metrics)
    check_judges(gate, [suite for suite, _ in suites])
    return gate
