"""What a quantized artifact keeps of its original, both as they are served, and the gate's verdict on that."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmops.eval.compare import changed_share, compare, is_drawn
from llmops.eval.gates import ContaminatedAtMost, Gate
from llmops.eval.items import suite_digest
from llmops.eval.measured import Measured, read, summary
from llmops.eval.pages.comparison_page import comparison_page, file_name
from llmops.eval.verdict import judge
from llmops.events import Listener
from llmops.files import digest_of, write_json, write_text
from llmops.lifecycle.contamination import contaminated_shares
from llmops.lifecycle.measure import Subject, Suites, Through, measure, subject
from llmops.lifecycle.serving_parity import served_parity
from llmops.records import ModelSource, Report, Verdict
from llmops.registry.verdicts import plain, verdict_from
from llmops.stats import Estimate
from llmops.workspace import Workspace

_CONFIDENCE = 0.95
_FORMAT = 1
"""Of what is kept of a verdict; raised whenever the same evidence would be written otherwise."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An original and what was made of it.

    Attributes:
        base: what the original is an adapter of; None for a whole model.
        made: the quantized artifact.
        beside: the artifact is the base alone, and the original is served on it as an adapter.
        served_by: what serves the artifact; the original answers by the same.
    """

    original: ModelSource
    base: ModelSource | None
    made: ModelSource
    beside: bool
    served_by: Through


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its interval of 95 % confidence; an end that is open is None."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept on one suite.

    Attributes:
        metric: the suite's first; `before` and `after` its values, `difference` paired over items.
        changed: share of items with another answer; None where answers are drawn at a temperature.
        kl: KL divergence of the next token's distribution along the quantized one's answers, nats a token, from what
            was trained to what is served.
        flips: share of tokens where another one became the likeliest.
        tokens_per_s: written by all streams together, of the original and of this; None where it is not known.
        weights_bytes: of the original, its base included, and of this.
    """

    metric: str
    before: float
    after: float
    difference: Interval
    changed: Interval | None
    kl: Interval
    flips: Interval
    tokens_per_s: tuple[float | None, float | None]
    weights_bytes: tuple[int, int]


def judged(
    pair: Pair, suites: Suites, gate: Gate, *, named: str, folder: Path, workspace: Workspace, listener: Listener
) -> tuple[dict[str, Kept], Verdict, list[Report]]:
    """What is kept, the gate's verdict, and the reports of the artifact, each suite's after the original's.

    Asked again with nothing changed, what was found is given.

    Args:
        named: the gate's file.
        folder: gets the reports, a page for each suite, and `verdict.json`.
    """
    asked = digest_of(
        {
            "format": _FORMAT,
            "gate": gate.model_dump(mode="json"),
            "suites": [suite_digest(suite, items) for suite, items in suites],
            "original": pair.original.digest,
            "base": pair.base.digest if pair.base else None,
            "made": pair.made.digest,
            "beside": pair.beside,
        }
    )
    known = folder / f"verdict-{asked[:12]}.json"
    if known.is_file():
        return _read(json.loads(known.read_text(encoding="utf-8")), folder)
    before, after = _subjects(pair, workspace)
    said = workspace.cache / "judged"
    listener.say(f"{pair.original.reference} answers through {pair.served_by}, to be compared with")
    others = measure(before, suites, folder=folder, listener=listener, judged=said)
    listener.say(f"{pair.made.reference} answers through {pair.served_by}")
    own = measure(after, suites, folder=folder, listener=listener, judged=said)
    parities = {
        name: served_parity(
            own[name],
            trained=pair.original,
            served=after.source,
            beneath=after.base,
            through=pair.served_by,
            workspace=workspace,
            listener=listener,
        )
        for name in own
    }
    held = {rule.suite for rule in gate.rules if isinstance(rule, ContaminatedAtMost)}
    contaminated = contaminated_shares(
        pair.original, [suite for suite, _ in suites if suite.name in held], workspace, listener
    )
    verdict = judge(
        gate,
        own,
        others,
        name=named,
        against=pair.original.reference,
        parities=parities,
        contaminated=contaminated,
    )
    speeds = _Speeds(workspace)
    kept = {}
    for name in own:
        comparison = compare(others[name], own[name])
        write_text(folder / file_name(others[name], own[name]), comparison_page(comparison, verdict))
        first = comparison.of(own[name].metrics[0].name)
        kept[name] = Kept(
            metric=first.metric,
            before=first.first,
            after=first.second,
            difference=_interval(first.value, (first.low, first.high)),
            changed=None if is_drawn(others[name]) else _estimated(changed_share(others[name], own[name])),
            kl=_estimated(parities[name].estimate("kl")),
            flips=_estimated(parities[name].estimate("flips")),
            tokens_per_s=(
                speeds.of(others[name], pair.original, pair.base),
                speeds.of(own[name], after.source, after.base),
            ),
            weights_bytes=(_bytes(others[name]), _bytes(own[name])),
        )
    write_json(folder / "verdict.json", plain(verdict))
    files = [str(one.file.name) for name in own for one in (others[name], own[name]) if one.file is not None]
    write_json(
        known,
        {"kept": {name: asdict(one) for name, one in kept.items()}, "verdict": plain(verdict), "reports": files},
    )
    return kept, verdict, [summary(one) for name in own for one in (others[name], own[name])]


def _subjects(pair: Pair, workspace: Workspace) -> tuple[Subject, Subject]:
    """Who answers: the original, and what is served in its place under the artifact's digest."""
    before = subject(pair.original, pair.base, workspace, through=pair.served_by, keep=True)
    if not pair.beside:
        return before, subject(pair.made, None, workspace, through=pair.served_by, keep=True)
    on_it = subject(pair.original, pair.made, workspace, through=pair.served_by, keep=True)
    # The verdict is on the artifact that was made, whichever folder the adapter is in.
    source = ModelSource(
        f"{pair.original.reference} on {pair.made.reference}", pair.original.folder, None, pair.made.digest
    )
    return before, replace(on_it, source=source)


class _Speeds:
    """Tokens a second, kept: answers that were kept from an earlier run took no time."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.cache / "speeds"

    def of(self, report: Measured, model: ModelSource, base: ModelSource | None) -> float | None:
        key = digest_of([model.digest, base.digest if base else None, report.suite["digest"], dict(report.engine)])
        file = self._folder / f"{key}.json"
        found = report.measures.get("tokens_per_s")
        if found is not None:
            write_json(file, {"tokens_per_s": found})
            return float(found)
        return float(json.loads(file.read_text(encoding="utf-8"))["tokens_per_s"]) if file.is_file() else None


def _estimated(estimate: Estimate) -> Interval:
    return _interval(estimate.value, estimate.interval(_CONFIDENCE))


def _interval(value: float, ends: tuple[float, float]) -> Interval:
    low, high = (end if math.isfinite(end) else None for end in ends)
    return Interval(value, low, high)


def _bytes(report: Measured) -> int:
    return round(report.measures["weights_gib"] * 2**30)


def _read(written: Mapping[str, Any], folder: Path) -> tuple[dict[str, Kept], Verdict, list[Report]]:
    """What was written when it was judged."""
    kept = {
        name: Kept(
            **{
                **one,
                **{key: Interval(**one[key]) if one[key] else None for key in ("difference", "changed", "kl", "flips")},
                "tokens_per_s": tuple(one["tokens_per_s"]),
                "weights_bytes": tuple(one["weights_bytes"]),
            }
        )
        for name, one in written["kept"].items()
    }
    reports = [summary(read(folder / file)) for file in written["reports"]]
    return kept, verdict_from(written["verdict"]), reports
