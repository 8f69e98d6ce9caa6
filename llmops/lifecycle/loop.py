"""The order of stages: data → train → evaluate → judge → register. Nothing below knows that there is a next stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from llmops.data.sources import check_columns
from llmops.data.versions import rows_of
from llmops.errors import EnvironmentFault, InputError, Interrupted, LlmopsError
from llmops.eval.compare import compare
from llmops.eval.gates import Gate
from llmops.eval.items import Item, suite_digest
from llmops.eval.judge.gated import standing
from llmops.eval.measured import FORMAT, Measured, read, summary
from llmops.eval.pages.comparison_page import comparison_page, file_name
from llmops.eval.suite import Suite
from llmops.events import Listener
from llmops.files import folder_digest, write_json, write_text
from llmops.finetune.claim import check_writable, claim
from llmops.finetune.identity import run_digest
from llmops.finetune.kernels import Kernels, choose_kernels
from llmops.finetune.plan import Plan, gib
from llmops.finetune.recipe import Recipe
from llmops.finetune.run import Finished, Tokens, check_base, encode_dataset, identify, plan_run, train_run
from llmops.lifecycle.beside import beside
from llmops.lifecycle.erasure import mark_new
from llmops.lifecycle.gate import Judged, verdict_of
from llmops.lifecycle.measure import measure, subject
from llmops.lifecycle.prepare import gate_of, suites_of
from llmops.lifecycle.teacher import dataset_of
from llmops.records import DatasetVersion, ModelSource, Report, RunManifest, Split, Step, Verdict
from llmops.registry.bom import write_bom
from llmops.registry.card import CardFacts, write_card
from llmops.registry.licence_chain import TAG, Chain, chain_of, to_plain, unknown
from llmops.registry.plots import plots
from llmops.registry.promote import registered
from llmops.registry.reference import resolve
from llmops.registry.run_records import DATASET_TAG, FOLDER_TAG, RUN_TAG
from llmops.registry.store import ModelVersion, register
from llmops.registry.tracking import Tracker
from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Result:
    """What `llmops finetune` leaves.

    Attributes:
        reports: two a suite, base before tuned.
        verdict: of the recipe's gate, None where it has none.
        version: None where the registry could not be reached; `fault` then says why.
    """

    finished: Finished
    tokens: Tokens
    reports: Sequence[Report]
    verdict: Verdict | None
    version: ModelVersion | None
    fault: LlmopsError | None


def finetune(
    recipe: Recipe,
    *,
    workspace: Workspace,
    out: Path | None,
    gpus: int,
    resume: bool,
    listener: Listener,
) -> Result:
    """Do everything a recipe says, from its data to a registered version.

    Checks come in the order of their cost: files, columns, suites and the output folder
    before the base, the base's shape before the data, memory and disk before training.
    """
    recipe.batch.passes(gpus)
    check_columns(recipe.data)
    suites = suites_of(recipe.evaluate)
    gate = gate_of(recipe.evaluate, suites)
    check_writable(out or workspace.runs)
    given = beside(recipe, workspace, listener, world=gpus)
    base = resolve(recipe.base, workspace=workspace, on_progress=_making(listener), say=listener.say)
    shape = check_base(recipe, base, world=gpus)
    given.check_base(base)
    dataset = dataset_of(recipe, given.teacher, workspace, listener)
    rows = {split: partial(rows_of, dataset, split) for split in get_args(Split)}
    tokens = encode_dataset(rows, dataset, recipe, base, cache=workspace.cache, listener=listener)
    kernels = choose_kernels(recipe, base, world=gpus)
    parts = identify(recipe, dataset, tokens, base, kernels, world=gpus, beside=given.digests)
    licences = chain_of(base, [(one.source, one.licence) for one in recipe.data.sources], workspace=workspace)
    licences += given.teacher.licences(workspace) if given.teacher is not None else []
    folder = out or workspace.runs / f"{recipe.name}-{run_digest(parts)[:12]}"
    if resume and out is None and not folder.exists():
        folder = _newest_unfinished(workspace.runs, recipe.name) or folder
    manifest = claim(folder, parts, resume=resume)
    cached = manifest is not None
    tracker: Tracker | None
    if manifest is None:
        plan = plan_run(
            recipe,
            shape,
            tokens,
            kernels,
            world=gpus,
            folder=folder,
            teacher=given.distributions,
            reward_models=given.reward_models,
        )
        _announce(dataset, tokens, kernels, listener)
        if missing := unknown(licences):
            listener.say(f"licences: not known for {'; '.join(missing)}; until they are stated nothing is promoted")
        listener.say(
            f"plan: {plan.updates} updates, {plan.tokens.used:,.0f} tokens, about {gib(plan.memory.total)} at the peak"
        )
        if recipe.method.reference:
            listener.say("reference: what the base thinks of every answer comes before the first update, once")
        tracker = _tracker(workspace, folder, recipe, parts)
        with _recorded(tracker, listener):
            manifest = train_run(
                folder,
                recipe,
                parts,
                base=base,
                dataset=dataset,
                tokens=tokens,
                kernels=kernels,
                plan=plan,
                world=gpus,
                listener=_Recording(listener, tracker, plan),
                licences=to_plain(licences),
                rewards=given.rewards,
                teacher=given.distributions,
            )
    else:
        listener.say(f"this recipe was trained before, with the same data and base: {folder}")
        tracker = _unsent(workspace, folder, recipe, parts)
    finished = Finished(manifest, folder, cached)
    with _recorded(tracker, listener):
        reports = _reports(suites, base, finished, workspace, listener)
        verdict = _verdict(gate, recipe, suites, reports, finished, workspace, listener)
        facts = CardFacts(manifest, reports, licences, [verdict] if verdict else [])
        write_card(finished.artifact, facts)
        write_bom(finished.artifact, facts)
        version, fault = _registered(recipe.name, finished, reports, verdict, licences, workspace, tracker, listener)
    if tracker is not None:
        _record_result(tracker, finished, manifest, dataset, tokens, reports)
        for line in tracker.finish("FINISHED").lines():
            listener.say(line)
        write_json(folder / _RECORDED, {"mlflow_run": tracker.run_id})
    return Result(finished, tokens, reports, verdict, version, fault)


def _making(listener: Listener) -> Callable[[int, int, str], None]:
    return lambda done, total, what: listener.advance(what, done, total)


def _announce(dataset: DatasetVersion, tokens: Tokens, kernels: Kernels, listener: Listener) -> None:
    for finding in dataset.findings:
        if finding.rows:
            listener.say(f"data: {finding.check}: {finding.rows} rows {finding.action}")
    report = tokens.report
    share = report.trained_tokens / max(report.tokens, 1)
    listener.say(
        f"data: {report.rows:,} rows, {report.tokens:,} tokens, {share:.0%} of them trained; "
        f"{report.lost_too_long + report.lost_untrained + report.lost_refused} rows lost while encoding"
    )
    for note in report.notes:
        listener.say(f"data: {note}")
    for reason in kernels.reasons:
        listener.say(reason)


def _newest_unfinished(runs: Path, name: str) -> Path | None:
    """The run of this name that was begun last and has no manifest."""
    begun = [
        folder
        for folder in runs.glob(f"{name}-*")
        if (folder / "identity.json").is_file() and not (folder / "manifest.json").is_file()
    ]
    return max(begun, key=lambda folder: (folder / "identity.json").stat().st_mtime, default=None)


class _Recording:
    """Passes on what it hears, and tells the tracker of every update."""

    def __init__(self, listener: Listener, tracker: Tracker, plan: Plan) -> None:
        self._listener, self._tracker, self._plan = listener, tracker, plan

    def say(self, line: str) -> None:
        self._listener.say(line)

    def advance(self, what: str, done: int, total: int | None) -> None:
        self._listener.advance(what, done, total)

    def step(self, step: Step, total: int) -> None:
        speed = step.tokens / step.seconds if step.seconds else 0.0
        values: dict[str, float | None] = {
            "loss": step.loss,
            "validation_loss": step.validation_loss,
            "gradient_norm": step.grad_norm,
            "learning_rate": step.learning_rate,
            "tokens_per_s": speed,
            "peak_bytes": float(step.peak_bytes),
            "epoch": step.epoch,
            **step.measures,
            **{f"validation_{name}": value for name, value in step.validation_measures.items()},
        }
        if self._plan.device.kind == "cuda":
            values["mfu"] = self._plan.mfu(speed)
        self._tracker.metrics(step.index, values)
        self._listener.step(step, total)


_RECORDED = "recorded.json"
"""Written once the whole result was handed to MLflow; what did not arrive is in `unsent.jsonl`."""


def _unsent(workspace: Workspace, folder: Path, recipe: Recipe, parts: Mapping[str, Any]) -> Tracker | None:
    """The record of a finished run that MLflow does not have all of; the rest is sent now."""
    if (folder / _RECORDED).exists() and not (folder / "unsent.jsonl").exists():
        return None
    return _tracker(workspace, folder, recipe, parts)


def _tracker(workspace: Workspace, folder: Path, recipe: Recipe, parts: Mapping[str, Any]) -> Tracker:
    tracker = Tracker(workspace, folder)
    tags = {RUN_TAG: run_digest(parts), FOLDER_TAG: str(folder.absolute()), DATASET_TAG: str(parts["dataset"])}
    tracker.start(folder.name, recipe.name, recipe.model_dump(mode="json"), tags=tags)
    return tracker


@contextmanager
def _recorded(tracker: Tracker | None, listener: Listener) -> Iterator[None]:
    """A run that does not end well is recorded as such; what could not be sent is named."""
    try:
        yield
    except BaseException as error:
        ended = isinstance(error, Interrupted | KeyboardInterrupt)
        if tracker is not None:
            for line in tracker.finish("KILLED" if ended else "FAILED").lines():
                listener.say(line)
        raise


def _record_result(
    tracker: Tracker,
    finished: Finished,
    manifest: RunManifest,
    dataset: DatasetVersion,
    tokens: Tokens,
    reports: Sequence[Report],
) -> None:
    from llmops.finetune.job import read_steps  # imports torch, which the checks at the start must not wait for

    steps = list(read_steps(finished.folder))
    lengths, folder = tokens.train.lengths.tolist(), finished.folder / "report"
    for picture in plots(steps, lengths, folder, unit=manifest.loss_unit):
        tracker.artifact(picture, under="plots")
    tracker.document("manifest.json", asdict(manifest))
    tracker.document("reports/mask.json", asdict(tokens.report))
    tracker.document("reports/data.json", [asdict(finding) for finding in dataset.findings])
    tuned = {f"{report.suite}.{score.metric}": score.value for report in reports[1::2] for score in report.scores}
    tracker.metrics(manifest.steps, dict(tuned))


def _reports(
    suites: Sequence[tuple[Suite, Sequence[Item]]],
    base: ModelSource,
    finished: Finished,
    workspace: Workspace,
    listener: Listener,
) -> list[Report]:
    """Base and tuned model on every suite; a finished run whose suites did not change is not asked again."""
    folder = finished.folder / "report"
    index = folder / "summary.json"
    wanted = [suite_digest(suite, items) + standing(suite) for suite, items in suites]
    if index.is_file():
        known = json.loads(index.read_text())
        files = [folder / name for name in known.get("files", ())]
        if (known["format"], known.get("suites")) == (FORMAT, wanted) and all(file.is_file() for file in files):
            measured = [read(file) for file in files]
            _leave_pages(measured, folder, listener)
            return [summary(one) for one in measured]
    manifest = finished.manifest
    tuned = ModelSource(manifest.name, finished.artifact, None, manifest.artifact_digest)
    beneath = base if manifest.kind == "adapter" else None
    subjects = [
        subject(model, on, workspace, through="transformers", keep=True)
        for model, on in ((base, None), (tuned, beneath))
    ]
    found = [
        measure(one, [pair], folder=folder, listener=listener, judged=workspace.cache / "judged")[pair[0].name]
        for pair in suites
        for one in subjects
    ]
    reports = [summary(one) for one in found]
    write_json(
        index,
        {"format": FORMAT, "suites": wanted, "files": [report.file.name for report in reports if report.file]},
    )
    _leave_pages(found, folder, listener)
    return reports


def _leave_pages(reports: Sequence[Measured], folder: Path, listener: Listener) -> None:
    """The page from base to tuned of each suite, where it is not there yet."""
    for base, tuned in zip(reports[::2], reports[1::2], strict=True):
        file = folder / file_name(base, tuned)
        if not file.is_file():
            write_text(file, comparison_page(compare(base, tuned)))
            listener.say(f"page: {file}")


def _verdict(
    gate: Gate | None,
    recipe: Recipe,
    suites: Sequence[tuple[Suite, Sequence[Item]]],
    reports: Sequence[Report],
    finished: Finished,
    workspace: Workspace,
    listener: Listener,
) -> Verdict | None:
    """What the recipe's gate says; None without one, and where the other version cannot be had: silence is no pass."""
    if gate is None or recipe.evaluate is None:
        return None
    manifest = finished.manifest
    served = ModelSource(manifest.name, finished.artifact, None, manifest.artifact_digest)
    trained = served
    if manifest.kind == "merged":
        adapter = finished.folder / "adapter"
        trained = ModelSource(f"{manifest.name} before merging", adapter, None, folder_digest(adapter))
    try:
        return verdict_of(
            gate,
            Judged(recipe.name, served, trained, suites),
            named=str(recipe.evaluate.gate),
            reports=reports[1::2],
            folder=finished.folder / "report",
            workspace=workspace,
            listener=listener,
        )
    except EnvironmentFault as fault:
        listener.say(f"gate: no verdict: {fault.problem}; {fault.fix}, then run the same command again")
        return None


def _registered(
    name: str,
    finished: Finished,
    reports: Sequence[Report],
    verdict: Verdict | None,
    licences: Chain,
    workspace: Workspace,
    tracker: Tracker | None,
    listener: Listener,
) -> tuple[ModelVersion | None, LlmopsError | None]:
    """The version in the registry; a registry that is away loses nothing, the same command later registers it."""
    run_id = tracker.wait_for_id() if tracker is not None else None
    try:
        version = register(
            name,
            finished.artifact,
            finished.manifest,
            reports[1::2],
            workspace=workspace,
            run_id=run_id,
            facts={TAG: json.dumps(to_plain(licences))},
        )
        registered(version, verdict, workspace=workspace)
        if erased := mark_new(version, finished.manifest, workspace=workspace):
            listener.say(f"marked: {version.reference} was trained on ratings of {', '.join(erased)}, erased before")
        return version, None
    except (InputError, Interrupted):
        raise
    except LlmopsError as error:
        missing = EnvironmentFault(
            f"{name} is trained, but not registered: {error.problem}",
            fix=f"{error.fix}; then run the same command again: it registers {finished.artifact}",
        )
        return None, missing
