"""The order in which a model becomes a quantized version: resolve → merge → quantize → measure → judge → register."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops.config import load
from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.eval.gates import Gate, over_suites
from llmops.eval.items import items_of
from llmops.eval.judge.gated import check_judges
from llmops.eval.suite import Suite
from llmops.eval.verdict import check_gate
from llmops.events import Listener
from llmops.files import write_json
from llmops.finetune.shape import shape_of
from llmops.hardware import Machine
from llmops.lifecycle.measure import Suites
from llmops.lifecycle.originals import Original, whole_of
from llmops.lifecycle.quantized_gate import Kept, Pair, judged
from llmops.lifecycle.quantized_record import enter, manifest_for
from llmops.quantize import calibration
from llmops.quantize.run import (
    Request,
    check_packages,
    check_room,
    quantize,
)
from llmops.quantize.schemes import SCHEMES, Forecast, Scheme, check_machine, check_shape, forecast
from llmops.records import ModelSource, RunManifest, Verdict
from llmops.registry.bom import write_bom
from llmops.registry.card import CardFacts, write_card
from llmops.registry.folder import cached_digest
from llmops.registry.run_records import read_manifest
from llmops.registry.store import ModelVersion
from llmops.workspace import Workspace

GATE = Path("eval/gates/quantized.yaml")
SAMPLES, ITERS = 128, 200
"""AutoRound's own: rows the rounding is tuned on, and tuning steps of each layer."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user says beside model and scheme.

    Attributes:
        beside: of an adapter, quantize the base alone and keep the adapter beside it.
        data: a jsonl to tune on instead of the run's own validation rows.
        suites, gate: files; no suites are those of the recipe that made the model.
    """

    iters: int = ITERS
    samples: int = SAMPLES
    seed: int = 0
    beside: bool = False
    data: Path | None = None
    suites: tuple[Path, ...] = ()
    gate: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An original that was looked at, and what it is judged by."""

    original: Original
    suites: Suites
    gate: Gate
    gate_file: Path
    source: calibration.Source | None


@dataclass(frozen=True, slots=True)
class Result:
    """One scheme done.

    Attributes:
        kept: what it keeps of the original, by the suite's name.
        version: None where the registry could not be reached; `fault` then says why.
        cached: nothing had to be made.
    """

    scheme: str
    folder: Path
    manifest: RunManifest
    forecast: Forecast
    kept: Mapping[str, Kept]
    verdict: Verdict
    version: ModelVersion | None
    fault: LlmopsError | None
    cached: bool

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"


def predict(original: Original, scheme: Scheme, options: Options) -> Forecast:
    """Size and memory, from the model's `config.json`.

    Raises:
        InputError: its shape does not fit the scheme, or is not known here.
    """
    shape = shape_of(original.config, named=original.source.reference)
    check_shape(scheme, shape, named=original.source.reference)
    length = min(calibration.LONGEST, shape.context or calibration.LONGEST)
    return forecast(scheme, shape, samples=options.samples, length=length, iters=options.iters)


def checked(original: Original, name: str, options: Options, machine: Machine) -> Forecast:
    """All that can be said of a scheme before anything is loaded, the shape first: it holds on every machine.

    Raises:
        InputError: the shape does not fit the scheme, or an adapter is asked beside a base and there is none.
        EnvironmentFault: this machine cannot run it, or the library that makes it is not installed.
    """
    scheme = SCHEMES[name]
    expected = predict(original, scheme, options)
    check_machine(scheme, machine)
    check_packages(scheme)
    if options.beside and original.base is None:
        raise InputError(
            f"{original.source.reference} is no adapter, so nothing can stand beside its base", fix="leave --beside out"
        )
    if options.beside and scheme.served_by != "vllm":
        raise InputError(f"adapters are not served on a base in {name}", fix="use a scheme that vLLM serves")
    return expected


def prepare(original: Original, schemes: Collection[str], options: Options, *, workspace: Workspace) -> Prepared:
    """Suites, gate and rows for these schemes, found and checked; nothing of the model is loaded.

    Raises:
        InputError: there is no suite to judge by, the gate asks for what is not measured, or there are no rows.
    """
    recipe: Mapping[str, Any] = original.manifest.recipe if original.manifest else {}
    files = options.suites or tuple(Path(one) for one in (recipe.get("evaluate") or {}).get("suites", ()))
    if not files:
        raise InputError(
            f"nobody knows by which suites {original.source.reference} is judged, for no recipe made it",
            fix="name one with --suite eval/suites/….yaml",
        )
    suites = [load(file, Suite, what="suite") for file in files]
    metrics = {suite.name: suite.metrics for suite in suites}
    file = options.gate or GATE
    gate = over_suites(load(file, Gate, what="gate"), metrics)
    check_gate(gate, metrics)
    check_judges(gate, suites)
    tuned = options.iters > 0 and any(SCHEMES[name].calibrated for name in schemes)
    source = _rows(original, options, workspace) if tuned else None
    return Prepared(original, [(suite, items_of(suite)) for suite in suites], gate, file, source)


def quantize_model(
    prepared: Prepared, name: str, options: Options, *, machine: Machine, workspace: Workspace, listener: Listener
) -> Result:
    """Make, judge and register one scheme; what was made or judged before is not done again.

    Raises:
        InputError, EnvironmentFault: as `checked`; or there is too little memory or disk.
    """
    original, scheme = prepared.original, SCHEMES[name]
    expected = checked(original, name, options, machine)
    beneath = original.base if options.beside else None
    whole = beneath or whole_of(original, workspace, listener)
    told = beneath or original.source
    source = prepared.source if scheme.calibrated else None
    iters = options.iters if scheme.calibrated else 0
    request = Request(name, told.digest, whole.digest, iters, options.samples, options.seed, source)
    called = f"{original.name}-{name}" + ("-base" if options.beside else "")
    folder = workspace.runs / f"{called}-{request.digest[:12]}"
    manifest = _done(folder, request, workspace)
    cached = manifest is not None
    if manifest is None:
        check_room(expected, machine, workspace.runs, named=original.source.reference)
        found = quantize(request, whole, out=folder / "artifact", workspace=workspace, listener=listener)
        manifest = manifest_for(called, request, told, whole, original, found, expected, machine)
        write_json(folder / "artifact" / "manifest.json", asdict(manifest))
        write_json(folder / "identity.json", dict(manifest.identity))
        write_json(folder / "manifest.json", asdict(manifest))
    else:
        listener.say(f"{called} was made before from the same bytes, rows and settings: {folder}")
    made = ModelSource(called, folder / "artifact", None, manifest.artifact_digest)
    pair = Pair(original.source, original.base, made, beside=options.beside, served_by=scheme.served_by)
    kept, verdict, reports = judged(
        pair,
        prepared.suites,
        prepared.gate,
        named=str(prepared.gate_file),
        folder=folder / "report",
        workspace=workspace,
        listener=listener,
    )
    facts = CardFacts(manifest, reports, original.licences, [verdict])
    write_card(made.folder, facts)
    write_bom(made.folder, facts)
    version, fault = enter(
        made, manifest, reports, verdict, original, told, name, beside=options.beside, workspace=workspace
    )
    return Result(name, folder, manifest, expected, kept, verdict, version, fault, cached)


def runnable(original: Original, options: Options, machine: Machine) -> dict[str, str | None]:
    """Every scheme by name, with why it cannot be made or run here; None where it can."""
    found: dict[str, str | None] = {}
    for name in SCHEMES:
        try:
            checked(original, name, options, machine)
            found[name] = None
        except (InputError, EnvironmentFault) as error:
            found[name] = error.problem
    return found


def _rows(original: Original, options: Options, workspace: Workspace) -> calibration.Source:
    if options.data is not None:
        return calibration.from_file(options.data)
    digest = original.manifest.lineage.get("dataset") if original.manifest else None
    found = calibration.from_dataset(str(digest), workspace) if digest else None
    if found is None:
        why = "its rows are not in this workspace any more" if digest else "no run of ours made it"
        raise InputError(
            f"there are no rows to tune the rounding of {original.source.reference} on: {why}",
            fix="give some with --data FILE, or round to the nearest with --fast",
        )
    return found


def _done(folder: Path, request: Request, workspace: Workspace) -> RunManifest | None:
    """The manifest of a request that was done before, its bytes still whole."""
    manifest = read_manifest(folder / "manifest.json")
    if manifest is None or manifest.digest != request.digest or not (folder / "artifact").is_dir():
        return None
    return manifest if cached_digest(folder / "artifact", workspace.cache) == manifest.artifact_digest else None
