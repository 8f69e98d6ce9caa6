"""The sections of a model card: each a function from records to Markdown, and silent about nothing it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmops.records import Report, RunManifest, Score, Verdict
from llmops.registry.connection import without_credentials
from llmops.registry.decisions import Decision, sentence
from llmops.registry.footprint import energy, operations
from llmops.registry.licence_chain import Chain, joint, unknown
from llmops.registry.markdown import code, table, text

FEWEST = 20
"""Items a slice must have for its interval to be read."""


def evaluation(manifest: RunManifest, reports: Sequence[Report]) -> Iterator[str]:
    """Every score with its interval, beside the base's on the same items."""
    yield "## Evaluation\n"
    own = of_model(manifest, reports)
    if not own:
        yield "Not evaluated.\n"
        return
    rows = []
    for report in own:
        base = next((one for one in reports if one is not report and _beneath(one, report, manifest)), None)
        before = {} if base is None else {score.metric: score for score in base.scores}
        for score in report.scores:
            items = f"{report.items:,}" if report.items else ""
            rows.append(
                (
                    text(report.suite),
                    items,
                    text(score.metric),
                    f"{score.value:.4g}",
                    interval(score),
                    f"{before[score.metric].value:.4g}" if score.metric in before else "",
                    code(score.signature),
                )
            )
    yield table(("suite", "items", "metric", "value", "95 % interval", "base", "computed as"), rows)
    yield "Intervals are over the items: other items of the same kind would give other values within them.\n"


def intended_use(manifest: RunManifest, reports: Sequence[Report]) -> Iterator[str]:
    yield "## Intended use\n"
    recipe = manifest.recipe
    suites = ", ".join(text(one.suite) for one in of_model(manifest, reports)) or "nothing"
    batch = recipe.get("batch") or {}
    yield (
        f"Inputs like the rows it was trained on ({listed(sources(manifest))}), written with the chat template it "
        f"was trained with. It was measured on: {suites}.\n"
    )
    longest = f"rows longer than {batch['max_length']:,} tokens, " if batch.get("max_length") else ""
    yield (
        f"Not shown, and not to be assumed: that it does well on other tasks, in other languages or on {longest}that "
        "its answers are true, harmless or fair. Measure that before using it for more.\n"
    )


def data(manifest: RunManifest) -> Iterator[str]:
    yield "## Data\n"
    used = manifest.lineage.get("sources") or [{"source": one, "digest": "", "rows": ""} for one in sources(manifest)]
    yield table(
        ("source", "rows read", "digest"),
        (
            (
                code(without_credentials(str(one["source"]))),
                f"{one['rows']:,}" if one["rows"] else "",
                code(one["digest"]),
            )
            for one in used
        ),
    )
    section = manifest.recipe.get("data") or {}
    held_out = section.get("validation")
    if isinstance(held_out, float) and held_out:
        yield f"{held_out:g} of the distinct prompts were held out, chosen by hash, to choose the weights by.\n"
    elif held_out:
        yield "Held-out rows have sources of their own.\n"
    apart = (section.get("checks") or {}).get("contamination")
    if apart:
        yield f"Rows that share text with {listed(apart)} were taken out.\n"


def licences(chain: Chain | None) -> Iterator[str]:
    yield "## Licence chain\n"
    if chain:
        yield table(
            ("what", "name", "licence", "stated in"),
            (
                (
                    one.role + (f" of {text(one.through)}" if one.through else ""),
                    code(one.name),
                    text(one.licence or "unknown"),
                    text(one.stated),
                )
                for one in chain
            ),
        )
    missing = unknown(chain)
    if missing:
        yield f"Not known: {'; '.join(map(text, missing))}. Until it is, nobody but an override promotes this model.\n"
    else:
        yield f"All of these hold for the model: {text(joint(chain))}.\n"


def limitations(manifest: RunManifest, reports: Sequence[Report]) -> Iterator[str]:
    """Slices in which the model is surely worse than over all, and those in which nobody can tell."""
    yield "## Limitations\n"
    own = of_model(manifest, reports)
    rows = [
        (
            text(one.suite),
            text(one.group),
            "" if one.items is None else f"{one.items:,}",
            text(one.score.metric),
            f"{one.score.value:.4g}",
            interval(one.score),
            f"{one.overall.value:.4g}",
        )
        for one in worse_slices(own)
    ]
    small = [
        f"{text(report.suite)} {text(group)} ({items})"
        for report in own
        for group, items in report.slice_items.items()
        if items < FEWEST
    ]
    looked = sum(len(scores) for report in own for group, scores in report.slices.items() if _is_read(report, group))
    if rows:
        yield "Surely worse than over all items, the whole interval lying on the worse side:\n"
        yield table(("suite", "slice", "items", "metric", "value", "95 % interval", "over all"), rows)
    if looked:
        yield (
            f"{looked} scores of slices were looked at; of so many, about {looked * 0.025:.1f} would lie there by "
            "chance if all slices were alike.\n"
        )
    if small:
        yield f"Too few items to tell (fewer than {FEWEST}): {', '.join(small)}.\n"
    if not looked and not small:
        yield "No suite has slices, so nothing is known of groups of inputs it does worse on.\n"
    truncated = [
        f"{one.measures['truncated_share']:.1%} on {text(one.suite)}"
        for one in own
        if one.measures.get("truncated_share")
    ]
    if truncated:
        yield f"Answers that were cut at the suite's largest length: {', '.join(truncated)}.\n"


def footprint(manifest: RunManifest) -> Iterator[str]:
    yield "## Compute and energy\n"
    counted = operations(manifest)
    if counted is None:
        yield "Operations of the training were not counted.\n"
    else:
        yield (
            f"{counted.flops:.3g} operations (FLOPs) over {manifest.tokens:,} tokens, with {counted.weights:,} weights "
            f"of which {counted.trained_weights:,} were trained. Counted as {text(counted.formula)} "
            "(Chowdhery et al. 2022, arXiv:2204.02311, appendix B).\n"
        )
    used = energy(manifest)
    if used is None:
        yield "Energy is not estimated: the time or the power of the device is not known.\n"
    else:
        yield f"About {used.kwh:.2g} kWh, an estimate. It assumes\n"
        yield "\n".join(f"- {text(one)};" for one in used.assumptions) + "\n"


def judgement(verdicts: Sequence[Verdict], decisions: Sequence[Decision]) -> Iterator[str]:
    yield "## Verdict and decisions\n"
    if not verdicts:
        yield "No gate has judged it.\n"
    for verdict in verdicts[-1:]:
        against = f" against {code(verdict.against)}" if verdict.against else ""
        yield f"{verdict.result} by {code(verdict.gate)}{against}, verdict {code(verdict.digest[:12])}:\n"
        yield table(
            ("rule", "value", "result"),
            (
                (text(rule.get("rule", "")), _number(rule.get("value")), text(rule.get("result", "")))
                for rule in verdict.rules
            ),
        )
    for link in decisions:
        yield f"- {text(link.time[:10])}: {text(sentence(link))}"
    yield "" if decisions else "Nobody has decided on it.\n"


def of_model(manifest: RunManifest, reports: Sequence[Report]) -> list[Report]:
    """Reports of the model itself; those of its base stand beside them."""
    base = manifest.lineage.get("base_digest")
    return [one for one in reports if base is None or one.model_digest != base]


def sources(manifest: RunManifest) -> list[str]:
    """Every source of training rows, as the recipe names it."""
    rows = (manifest.recipe.get("data") or {}).get("train") or []
    return [without_credentials(str(one["source"])) for one in rows if isinstance(one, dict) and "source" in one]


def listed(names: Sequence[str]) -> str:
    return ", ".join(code(name) for name in names) or "unnamed data"


@dataclass(frozen=True, slots=True)
class WorseSlice:
    """A slice in which a model is surely worse than over all items; `items` is None where it is not known."""

    suite: str
    group: str
    items: int | None
    score: Score
    overall: Score


def worse_slices(reports: Sequence[Report]) -> Iterator[WorseSlice]:
    """Every slice, with enough items to be read, whose whole interval lies on the worse side."""
    for report in reports:
        overall = {score.metric: score for score in report.scores}
        for group, scores in report.slices.items():
            for score in scores if _is_read(report, group) else ():
                if score.metric in overall and _is_worse(score, overall[score.metric]):
                    items = report.slice_items.get(group)
                    yield WorseSlice(report.suite, group, items, score, overall[score.metric])


def _is_read(report: Report, group: str) -> bool:
    """Whether a slice has enough items; so it is taken where their number is not known."""
    return report.slice_items.get(group, FEWEST) >= FEWEST


def _is_worse(score: Score, overall: Score) -> bool:
    """Whether a slice's whole interval lies on the worse side of the value over all; an open one tells nothing."""
    if score.better == "higher":
        return score.high is not None and score.high < overall.value
    return score.low is not None and score.low > overall.value


def interval(score: Score) -> str:
    """The interval in words of one cell; one-sided or open where a bound is not known."""
    low = "−∞" if score.low is None else f"{score.low:.4g}"
    high = "∞" if score.high is None else f"{score.high:.4g}"
    return "not known" if score.low is None and score.high is None else f"{low} to {high}"


def _beneath(one: Report, report: Report, manifest: RunManifest) -> bool:
    base = manifest.lineage.get("base_digest")
    return base is not None and one.model_digest == base and one.suite_digest == report.suite_digest


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else text(value or "")
