"""One run from rows to artifact: tokens, plan, identity, training, manifest.

Every check that needs no GPU is made before the first process is started.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llmops.data.formats import prompt_key
from llmops.data.versions import rows_of
from llmops.errors import InputError, OutOfMemory
from llmops.events import Listener
from llmops.files import folder_digest, new_folder, write_json, write_text
from llmops.finetune.claim import check_writable
from llmops.finetune.disk import check_disk, disk_needed
from llmops.finetune.identity import environment, identity, run_digest
from llmops.finetune.items import Items
from llmops.finetune.kernels import Kernels
from llmops.finetune.lengths import answered_by_the_model
from llmops.finetune.method import Grpo
from llmops.finetune.plan import Plan, check_memory, gib, make_plan, way_out
from llmops.finetune.recipe import Lora, Recipe
from llmops.finetune.shape import ModelShape, shape_at
from llmops.finetune.tokens import TokenStore
from llmops.finetune.trained import check_shape
from llmops.hardware import Device, device_of, machine
from llmops.records import DatasetVersion, MaskReport, ModelSource, Row, RunManifest, Split
from llmops.registry.folder import check_answers

if TYPE_CHECKING:
    from llmops.finetune.grpo import Reward
    from llmops.finetune.teacher import TeacherModel


def _encoded(listener: Listener, split: str, count: int, done: int) -> None:
    listener.advance(f"encoding {split} rows", done, count)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Encoded rows on disk: `folder` holds `train.safetensors`, perhaps `validation.safetensors`, and the report."""

    folder: Path
    train: TokenStore
    validation: TokenStore | None
    report: MaskReport
    digest: str
    pad_id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run; `cached` when it had been finished before."""

    manifest: RunManifest
    folder: Path
    cached: bool

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"


def encode_dataset(
    rows: Mapping[Split, Callable[[], Iterable[Row]]],
    dataset: DatasetVersion,
    recipe: Recipe,
    base: ModelSource,
    *,
    cache: Path,
    listener: Listener,
) -> Tokens:
    """Token ids and loss masks of both splits, from the cache where nothing they depend on changed.

    Args:
        rows: a function per split that yields its `Row`s; called only when the cache has none.
    """
    from transformers import AutoTokenizer

    from llmops.finetune.tokens import encode, encoding_key

    tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
    key = encoding_key(dataset.digest, tokenizer, recipe.batch.max_length, recipe.method.item)
    folder = cache / "tokens" / key[:32]
    if not (folder / "report.json").is_file():
        with new_folder(folder) as fresh:
            reports = {}
            for split, source in rows.items():
                count = dataset.rows.get(split, 0)
                if not count:
                    continue
                _, report, lost = encode(
                    source(),
                    tokenizer,
                    max_length=recipe.batch.max_length,
                    path=fresh / f"{split}.safetensors",
                    method=recipe.method,
                    on_progress=partial(_encoded, listener, split, count),
                )
                reports[split] = asdict(report)
                with (fresh / "lost.jsonl").open("a", encoding="utf-8") as file:
                    for one in lost:
                        file.write(json.dumps({"split": split, **asdict(one)}, ensure_ascii=False) + "\n")
            write_json(fresh / "report.json", reports)
    reports = json.loads((folder / "report.json").read_text())
    train = TokenStore.open(folder / "train.safetensors")
    validation = folder / "validation.safetensors"
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Tokens(
        folder=folder,
        train=train,
        validation=TokenStore.open(validation) if validation.is_file() else None,
        report=MaskReport(
            **{**reports["train"], **{key: tuple(reports["train"][key]) for key in ("samples", "notes")}}
        ),
        digest=key,
        pad_id=int(pad or 0),
    )


def check_base(recipe: Recipe, base: ModelSource, *, world: int) -> ModelShape:
    """The base's shape, read off its `config.json`.

    Raises:
        InputError: the base is an adapter or only scores answers, or the recipe does not fit its shape.
    """
    if (base.folder / "adapter_config.json").is_file():
        raise InputError(
            f"base {recipe.base} is an adapter, training starts from a whole model",
            fix=f"run `llmops merge {recipe.base}` and name the merged folder as base",
        )
    if not recipe.scores:
        check_answers(base.folder, named=recipe.base)
    shape = shape_at(base.folder, named=recipe.base)
    check_shape(recipe, shape, world=world)
    return shape


def plan_run(
    recipe: Recipe,
    shape: ModelShape,
    tokens: Tokens,
    kernels: Kernels,
    *,
    world: int,
    folder: Path,
    teacher: TeacherModel | None = None,
    reward_models: Sequence[ModelShape] = (),
) -> Plan:
    """What the run will take here, from the lengths of its own rows.

    What an interrupted run left in its `folder` counts as disk it need not find again.

    Args:
        teacher: whose distributions are learned.
        reward_models: that reward the model's own answers.

    Raises:
        EnvironmentFault: memory or disk will not do; the keys that help are named with what each saves.
    """
    profile = Items.of(tokens.train, recipe.method.item).profile()
    if isinstance(recipe.method, Grpo):
        profile = answered_by_the_model(
            tokens.train.lengths.tolist(), tokens.train.trained_counts.tolist(), recipe.method
        )
    device = device_of(machine(disk=folder))
    plan = make_plan(
        _answering(recipe, device),
        shape,
        profile,
        world=world,
        device=device,
        price_per_gpu_hour=None,
        attention=kernels.attention,
        liger=kernels.liger,
        teacher=None if teacher is None else shape_at(teacher.whole, named=teacher.source.reference),
        reward_models=reward_models,
    )
    check_memory(plan)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    check_disk(folder, disk_needed(plan, recipe, shape) - held)
    return plan


def _answering(recipe: Recipe, device: Device) -> Recipe:
    """The recipe with what will answer here in the place of `auto`."""
    if not isinstance(recipe.method, Grpo):
        return recipe
    from llmops.finetune.grpo import answers_with

    chosen = "vllm" if answers_with(recipe.method, device.kind)[0] else "transformers"
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"generate": chosen})})


def identify(
    recipe: Recipe,
    dataset: DatasetVersion,
    tokens: Tokens,
    base: ModelSource,
    kernels: Kernels,
    *,
    world: int,
    beside: Mapping[str, str] = {},
) -> dict[str, Any]:
    """The identity of the run; its digest names the run's folder.

    Args:
        beside: digests of what else the method trains with, by what it is.
    """
    from llmops.finetune.launch import threads_for

    return {**beside} | identity(
        recipe,
        dataset=dataset.digest,
        tokens=tokens.train.digest + (tokens.validation.digest if tokens.validation else ""),
        template=tokens.report.template_digest,
        base=base.digest,
        base_revision=base.revision,
        world=world,
        threads=threads_for(world),
        kernels={"attention": kernels.attention, "liger": kernels.liger, "device": kernels.device},
    )


def train_run(
    folder: Path,
    recipe: Recipe,
    parts: Mapping[str, Any],
    *,
    base: ModelSource,
    dataset: DatasetVersion,
    tokens: Tokens,
    kernels: Kernels,
    plan: Plan,
    world: int,
    listener: Listener,
    licences: Sequence[Mapping[str, Any]] = (),
    rewards: Sequence[Reward] = (),
    teacher: TeacherModel | None = None,
) -> RunManifest:
    """Train, save the artifact and write the manifest; goes on from the last good checkpoint if there is one.

    Args:
        licences: what the run rests on, for the manifest.
        rewards: of the method grpo.
        teacher: whose distributions are learned.
    """
    from llmops.finetune.job import Job
    from llmops.finetune.launch import launch, reinforce_here

    check_writable(folder)
    write_json(folder / "identity.json", dict(parts))
    Job(recipe, base, tokens.folder, kernels.attention, kernels.liger, tokens.pad_id, teacher).write(folder)
    write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
    write_json(folder / "mask.json", asdict(tokens.report))
    _copy_dropped(dataset, tokens, folder / "dropped.jsonl")
    try:
        if isinstance(recipe.method, Grpo):
            total = write_prompts(folder, dataset, tokens, recipe)
            outcome = reinforce_here(folder, rewards, on_step=lambda step: listener.step(step, total))
        else:
            outcome = launch(folder, world=world, on_step=lambda step: listener.step(step, plan.updates))
    except OutOfMemory as error:
        needed = f"planned were {gib(plan.memory.total)} of {gib(plan.device.usable_bytes)}"
        raise OutOfMemory(f"{error.problem}; {needed}", fix=way_out(plan)) from error
    kind: Any = outcome.kind
    if isinstance(recipe.adapter, Lora) and recipe.adapter.merge:
        _merge_in_place(folder, base, recipe, listener)
        kind = "merged"
    manifest = RunManifest(
        name=recipe.name,
        digest=run_digest(parts),
        identity=dict(parts),
        recipe=recipe.model_dump(mode="json"),
        kind=kind,
        artifact_digest=folder_digest(folder / "artifact"),
        steps=outcome.updates,
        tokens=outcome.tokens,
        trained_tokens=outcome.trained_tokens,
        final_loss=outcome.loss,
        validation_loss=outcome.validation_loss,
        validation_measures=dict(outcome.validation_measures),
        loss_unit=recipe.method.unit,
        tokens_per_s=outcome.tokens_per_s,
        predicted=plan.predicted(),
        measured={
            "peak_bytes": float(outcome.peak_bytes),
            "seconds": outcome.seconds,
            "tokens_per_s": outcome.tokens_per_s,
        },
        environment={**environment(), "device": kernels.device},
        lineage={
            "base": base.reference,
            "base_revision": base.revision,
            "base_digest": base.digest,
            "dataset": dataset.digest,
            "sources": [source.plain() for source in dataset.sources],
            **({"teacher": taught} if (taught := _teacher_of(dataset, teacher)) else {}),
            "licences": [dict(one) for one in licences],
            "template": tokens.report.template_digest,
            "code_version": version("llmops"),
            "work": {
                "flops": plan.flops.model * outcome.tokens / plan.tokens.used,  # of what was trained, not planned
                "formula": plan.flops.formula,
                "weights": plan.weights,
                "trained_weights": plan.trained_weights,
            },
            "stopped_early": outcome.stopped_early,
            "best_update": outcome.best_update,
        },
    )
    for place in (folder / "artifact" / "manifest.json", folder / "manifest.json"):
        write_json(place, asdict(manifest))
    return manifest


def write_prompts(folder: Path, dataset: DatasetVersion, tokens: Tokens, recipe: Recipe) -> int:
    """The prompts of the rows that were not lost while encoding, with their answers as references; says how many
    updates they make.

    Rows of one prompt are one, with several references.
    """
    from llmops.finetune.grpo import PROMPTS, updates_of

    lost: dict[str, set[str]] = {}
    file = tokens.folder / "lost.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        one = json.loads(line)
        lost.setdefault(one["split"], set()).add(one["id"])
    prompts = 0
    for split in get_args(Split):
        asked: dict[str, dict[str, Any]] = {}
        for row in rows_of(dataset, split):
            if row.id not in lost.get(split, ()):
                *messages, answer = row.content["messages"]
                prompt = {"messages": messages, "references": []}
                asked.setdefault(prompt_key(row), prompt)["references"].append(answer["content"])
        prompts += len(asked) if split == "train" else 0
        if asked:
            lines = (json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in asked.values())
            write_text(folder / PROMPTS.format(split=split), "".join(lines))
    return updates_of(recipe, prompts)


def _teacher_of(dataset: DatasetVersion, teacher: TeacherModel | None) -> dict[str, Any]:
    """Who taught: who wrote the answers, else whose distributions are learned; empty where nobody did."""
    if dataset.teacher or teacher is None:
        return dict(dataset.teacher)
    return {"name": teacher.source.reference, "digest": teacher.source.digest, "revision": teacher.source.revision}


def _copy_dropped(dataset: DatasetVersion, tokens: Tokens, target: Path) -> None:
    """Every row that is not trained on, with its reason: those of the data checks and those lost while encoding."""
    parts = [dataset.folder / "dropped.jsonl", tokens.folder / "lost.jsonl"]
    target.write_bytes(b"".join(part.read_bytes() for part in parts if part.is_file()))


def _merge_in_place(folder: Path, base: ModelSource, recipe: Recipe, listener: Listener) -> None:
    """Keep the adapter beside and make the merged model the artifact; a kill leaves one of the two states."""
    from llmops.finetune.merge import merge

    adapter = folder / "adapter"
    if not (folder / "artifact" / "adapter_config.json").is_file():
        return
    if adapter.exists():
        shutil.rmtree(adapter)
    shutil.copytree(folder / "artifact", adapter)
    report = merge(adapter, base=base.folder, out=folder / "artifact", dtype=None)
    listener.say(f"merged into {base.reference}: KL to the adapter {report.kl_to_adapter:.1e} nats per token")
