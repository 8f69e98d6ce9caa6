"""A run made again from its record: bit-exact, equivalent within interval, or different and because of what.

Nothing is registered or sent to MLflow: the outcome says something about a record, and is no new model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal, get_args

from llmops.data.versions import rows_of
from llmops.errors import InputError
from llmops.eval.compare import compare
from llmops.events import Listener
from llmops.files import file_digest, folder_digest, write_json
from llmops.finetune.claim import check_writable
from llmops.finetune.kernels import choose_kernels
from llmops.finetune.recipe import Recipe
from llmops.finetune.run import check_base, encode_dataset, identify, plan_run, train_run
from llmops.lifecycle.beside import Beside, beside, needed_to_train
from llmops.lifecycle.measure import Suites, measure, subject
from llmops.lifecycle.prepare import suites_of
from llmops.lifecycle.run_again import Origin, base_of, recipe_of, rows_of_record
from llmops.lifecycle.version_diff import Change, changes
from llmops.records import ModelSource, RunManifest, Split
from llmops.registry.store import place_of
from llmops.workspace import Workspace

Finding = Literal["bit-exact", "equivalent within interval", "different", "not trained"]
_MATTER = ("recipe", "dataset", "tokens", "template", "base")
"""Parts of an identity without which a run is another run, whatever comes out; the rest changes how it is computed."""


@dataclass(frozen=True, slots=True)
class Margin:
    """By how much the new artifact's score may differ from the old one's: the 95 % interval of the paired difference.

    Attributes:
        allowed: as asked for; None asks only that the difference is not shown.
    """

    suite: str
    metric: str
    first: float
    second: float
    low: float
    high: float
    shown: bool
    allowed: float | None

    @property
    def equivalent(self) -> bool:
        """No difference is shown, the interval is finite, and it lies within what was allowed."""
        widest = max(abs(self.low), abs(self.high))
        return not self.shown and math.isfinite(widest) and (self.allowed is None or widest <= self.allowed)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of making a run again.

    Attributes:
        changed: what of the run's identity is not what it was; known before anything is trained.
        notes: what was found out on the way, a sentence each.
        because: for `different`, why.
        artifact: digest of what came out; None where nothing was trained.
        folder: of the new run, None where nothing was trained.
    """

    run: str
    finding: Finding
    changed: Sequence[Change]
    notes: Sequence[str]
    because: Sequence[str]
    margins: Sequence[Margin] = ()
    artifact: str | None = None
    folder: Path | None = None


def reproduce(
    origin: Origin,
    *,
    workspace: Workspace,
    listener: Listener,
    out: Path | None = None,
    dry_run: bool = False,
    margins: Mapping[str, float] | None = None,
) -> Reproduction:
    """Make a run again from its manifest alone, and say how alike the two artifacts are.

    Rows and base are those of the record where the workspace still holds them; a source that changed since is
    named. What differs is said before anything is trained; where it makes another run of it, nothing is.

    Args:
        out: the new run's folder, which must be empty; None makes one in the workspace.
        dry_run: stop before training.
        margins: largest difference allowed by `suite.metric`, in its points.

    Raises:
        InputError: the manifest's recipe is none of this version, its sources are gone, or a margin is of no metric.
    """
    manifest = origin.manifest
    if manifest.kind == "quantized":
        raise InputError(
            f"{manifest.name} was quantized, which no recipe says",
            fix="its card has the command that makes it again, see `llmops models card`",
        )
    recipe = recipe_of(manifest)
    folder = out or workspace.folder("reproductions") / f"{manifest.name}-{manifest.digest[:12]}-{_now()}"
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty", fix="choose another with --out, or leave it out")
    notes: list[str] = []
    base = base_of(manifest, workspace, listener, notes)
    world = int(manifest.identity.get("world", 1))
    dataset = rows_of_record(manifest, recipe, workspace, listener, notes)
    suites = _suites(recipe, margins or {}, notes)
    given = beside(recipe, workspace, listener, world=world) if needed_to_train(recipe) else Beside()
    shape = check_base(recipe, base, world=world)
    rows = {split: partial(rows_of, dataset, split) for split in get_args(Split)}
    tokens = encode_dataset(rows, dataset, recipe, base, cache=workspace.cache, listener=listener)
    kernels = choose_kernels(recipe, base, world=world)
    parts = identify(recipe, dataset, tokens, base, kernels, world=world, beside=given.digests)
    changed = [*changes(manifest.identity, parts), *_code(manifest)]
    for change in changed:
        listener.say(f"changed: {_in_words(change)}")
    for note in notes:
        listener.say(note)
    other = [one for one in changed if one.key.partition(".")[0].partition("[")[0] in _MATTER]
    if other:
        return Reproduction(origin.name, "different", changed, notes, [_in_words(one) for one in other])
    if dry_run:
        return Reproduction(origin.name, "not trained", changed, notes, [])
    check_writable(folder)
    plan = plan_run(
        recipe,
        shape,
        tokens,
        kernels,
        world=world,
        folder=folder,
        teacher=given.distributions,
        reward_models=given.reward_models,
    )
    made = train_run(
        folder,
        recipe,
        parts,
        base=base,
        dataset=dataset,
        tokens=tokens,
        kernels=kernels,
        plan=plan,
        world=world,
        listener=listener,
        licences=manifest.lineage.get("licences", ()),
        rewards=given.rewards,
        teacher=given.distributions,
    )
    done = partial(
        Reproduction, origin.name, changed=changed, notes=notes, artifact=made.artifact_digest, folder=folder
    )
    if made.artifact_digest == manifest.artifact_digest:
        result = done(finding="bit-exact", because=[])
    else:
        found = _compared(origin, made, base, suites, folder, workspace, listener, margins or {}, notes)
        result = _judged(done, changed, found)
    write_json(folder / "reproduction.json", plain(result))
    return result


def plain(result: Reproduction) -> dict[str, Any]:
    """A reproduction as JSON holds it."""
    return {
        **asdict(result),
        "margins": [
            {**asdict(one), "low": _finite(one.low), "high": _finite(one.high), "equivalent": one.equivalent}
            for one in result.margins
        ],
        "folder": str(result.folder) if result.folder else None,
    }


def _suites(recipe: Recipe, margins: Mapping[str, float], notes: list[str]) -> Suites:
    """The recipe's suites as they are now; without them only bit-exactness can be shown."""
    try:
        suites = suites_of(recipe.evaluate)
    except InputError as error:
        notes.append(f"the recipe's suites cannot be read, so only bit-exactness can be shown: {error.problem}")
        suites = []
    known = {f"{suite.name}.{metric}" for suite, _ in suites for metric in suite.metrics}
    for name in margins:
        if name not in known:
            raise InputError(
                f"there is no metric {name!r} to allow a margin for",
                fix=f"use one of: {', '.join(sorted(known)) or 'none, the recipe measures nothing'}",
            )
    return suites


def _code(manifest: RunManifest) -> Iterator[Change]:
    before, now = manifest.lineage.get("code_version"), version_of("llmops")
    if before is not None and before != now:
        yield Change("llmops", before, now)


def _compared(
    origin: Origin,
    made: RunManifest,
    base: ModelSource,
    suites: Suites,
    folder: Path,
    workspace: Workspace,
    listener: Listener,
    allowed: Mapping[str, float],
    notes: list[str],
) -> list[Margin]:
    """Both artifacts on the recipe's suites, as they are now, item by item."""
    before = _artifact(origin, workspace)
    if before is None:
        notes.append("the bytes of the first artifact are gone, so there is nothing to compare scores with")
        return []
    if not suites:
        notes.append("the recipe measures nothing, so nothing shows whether the two are equivalent")
        return []
    if _weights(before) == _weights(folder / "artifact"):
        notes.append("the weights are equal bit for bit; only other files of the artifact differ")
    beneath = base if made.kind == "adapter" else None
    models = (
        ModelSource(origin.name, before, None, origin.manifest.artifact_digest),
        ModelSource("reproduced", folder / "artifact", None, made.artifact_digest),
    )
    first, second = (
        measure(
            subject(one, beneath, workspace, through="transformers", keep=True),
            suites,
            folder=folder / "report",
            listener=listener,
        )
        for one in models
    )
    return [
        Margin(
            suite,
            one.metric,
            one.first,
            one.second,
            one.low,
            one.high,
            one.finding != "inconclusive",
            allowed.get(f"{suite}.{one.metric}"),
        )
        for suite in first
        for one in compare(first[suite], second[suite]).differences
        if not one.group
    ]


def _artifact(origin: Origin, workspace: Workspace) -> Path | None:
    """Where the first artifact's bytes are, checked."""
    wanted = origin.manifest.artifact_digest
    places = [place_of(workspace, wanted), *([origin.folder / "artifact"] if origin.folder else [])]
    return next((place for place in places if place.is_dir() and folder_digest(place) == wanted), None)


def _weights(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in folder.glob("*.safetensors")}


def _judged(done: Callable[..., Reproduction], changed: Sequence[Change], margins: Sequence[Margin]) -> Reproduction:
    if margins and all(one.equivalent for one in margins):
        return done(finding="equivalent within interval", because=[], margins=margins)
    because = [_in_words(one) for one in changed]
    if not because:
        because = ["nothing recorded changed: this device or its libraries do not give the same sums twice"]
    for one in margins:
        if not one.equivalent:
            why = "a difference is shown" if one.shown else "the interval is wider than allowed, or has no end"
            because.append(f"{one.suite}.{one.metric}: {one.first:.4g} → {one.second:.4g}: {why}")
    return done(finding="different", because=because, margins=margins)


def _in_words(change: Change) -> str:
    def short(value: Any) -> str:
        text = "none" if value is None else str(value)
        is_digest = len(text) >= 40 and set(text) <= set("0123456789abcdef")
        return text[:12] if is_digest else text

    name = {"dataset": "data", "tokens": "token ids or loss mask", "template": "chat template"}.get(
        change.key, change.key
    )
    return f"{name}: {short(change.first)} → {short(change.second)}"


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
