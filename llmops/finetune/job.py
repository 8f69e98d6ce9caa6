"""One training run as every process of it sees it: a folder with `job.json`, tokens, checkpoints and the result.

RUN/job.json          what to do; written before any process starts
RUN/checkpoints/      see checkpoint.py
RUN/steps.jsonl       one line an update, in order, also across resumes
RUN/artifact/         the result
RUN/trained.json      how it went; written last
RUN/error.json        why it did not go on
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llmops.errors import EnvironmentFault, InputError, Interrupted, LlmopsError, OutOfMemory, TrainingStopped
from llmops.files import digest_of, write_json
from llmops.finetune import checkpoint
from llmops.finetune.artifact import save_artifact
from llmops.finetune.identity import environment
from llmops.finetune.model import Placement
from llmops.finetune.parallel import Processes
from llmops.finetune.recipe import Lora, Recipe
from llmops.finetune.teacher import TeacherModel, load_teacher
from llmops.finetune.tokens import TokenStore
from llmops.finetune.train import Trainer
from llmops.records import ModelSource, Step


@dataclass(frozen=True, slots=True)
class Job:
    """What to do, complete: a process needs nothing else."""

    recipe: Recipe
    base: ModelSource
    tokens: Path
    attention: str
    liger: bool
    pad_id: int
    teacher: TeacherModel | None = None

    def write(self, run: Path) -> None:
        write_json(
            run / "job.json",
            {
                "recipe": self.recipe.model_dump(mode="json"),
                "base": _plain(self.base),
                "tokens": str(self.tokens),
                "attention": self.attention,
                "liger": self.liger,
                "pad_id": self.pad_id,
                "teacher": None
                if self.teacher is None
                else {"source": _plain(self.teacher.source), "base": _plain(self.teacher.base)},
            },
        )

    @classmethod
    def read(cls, run: Path) -> Job:
        record = json.loads((run / "job.json").read_text())
        teacher = record.get("teacher")  # of a job written before there were any
        base = _source(record["base"])
        assert base is not None
        return cls(
            recipe=Recipe.model_validate(record["recipe"]),
            base=base,
            tokens=Path(record["tokens"]),
            attention=record["attention"],
            liger=record["liger"],
            pad_id=record["pad_id"],
            teacher=None if teacher is None else TeacherModel(_source(teacher["source"]), _source(teacher["base"])),  # type: ignore[arg-type]
        )


def _plain(source: ModelSource | None) -> dict[str, Any] | None:
    return None if source is None else {**asdict(source), "folder": str(source.folder)}


def _source(record: dict[str, Any] | None) -> ModelSource | None:
    return None if record is None else ModelSource(**{**record, "folder": Path(record["folder"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training went, as `trained.json` holds it."""

    kind: str
    updates: int
    tokens: int
    trained_tokens: int
    seconds: float
    loss: float
    validation_loss: float | None
    best_update: int
    stopped_early: bool
    peak_bytes: int
    validation_measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Tokens computed per second of updates, padding left out."""
        return self.tokens / self.seconds if self.seconds else 0.0


def work(
    run: Path,
    processes: Processes,
    *,
    stop: Callable[[], int] = lambda: 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Outcome:
    """Do the job of the folder `run` in this process, together with all others."""
    job = Job.read(run)
    torch.set_float32_matmul_precision("high" if job.recipe.precision != "fp32" else "highest")
    begun = checkpoint.latest(run / "checkpoints")
    if processes.first:
        _forget_steps_after(run, checkpoint.read_progress(begun).update if begun else 0)
    validation = job.tokens / "validation.safetensors"
    placement = Placement(processes.device, job.attention, job.liger)
    # Unbuffered: after a write that failed nothing is left that closing would try to write again.
    with (run / "steps.jsonl").open("ab", buffering=0) as log:

        def told(step: Step) -> None:
            try:
                log.write(json.dumps(asdict(step)).encode() + b"\n")
            except OSError as error:
                raise EnvironmentFault(
                    f"{run / 'steps.jsonl'} could not be written: {error.strerror}",
                    fix="free disk space, then run the same command again: it goes on from the last good checkpoint",
                ) from error
            on_step(step)

        trained = Trainer(
            job.recipe,
            base=job.base.folder,
            train=TokenStore.open(job.tokens / "train.safetensors"),
            validation=TokenStore.open(validation) if validation.is_file() else None,
            checkpoints=run / "checkpoints",
            placement=placement,
            processes=processes,
            pad_id=job.pad_id,
            references=_references(job, processes),
            teacher=partial(load_teacher, job.teacher, job.recipe, placement) if job.teacher is not None else None,
            stop=stop,
            on_step=told,
        ).run()
    kind = save_artifact(trained.model, job.recipe, job.base, run / "artifact", processes)
    progress = trained.progress
    outcome = Outcome(
        kind=kind,
        updates=progress.update,
        tokens=progress.tokens,
        trained_tokens=progress.trained_tokens,
        seconds=progress.seconds,
        loss=progress.loss,
        validation_loss=progress.best_loss if job.recipe.validation.keep_best else progress.validation_loss,
        best_update=progress.best_update,
        stopped_early=trained.stopped_early,
        peak_bytes=trained.peak_bytes,
        validation_measures=progress.best_measures if job.recipe.validation.keep_best else progress.measures,
    )
    if processes.first:
        write_json(run / "trained.json", asdict(outcome))
    return outcome


def _references(job: Job, processes: Processes) -> Path:
    """Where the reference's log-probabilities of the job's tokens are kept: beside them, by all they depend on.

    Arithmetic and batches are part of the name, so that what is read has the very bits that computing it would give.
    """
    adapter = job.recipe.adapter
    name = digest_of(
        {
            "base": job.base.digest,
            "base_bits": adapter.base_bits if isinstance(adapter, Lora) else 32,
            "precision": job.recipe.precision,
            "attention": job.attention,
            "liger": job.liger,
            "per_device": job.recipe.batch.per_device,
            "loss_chunk": job.recipe.kernels.loss_chunk,
            "world": processes.world,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else "cpu",
            "environment": environment(),
        }
    )
    return job.tokens / f"reference-{name[:32]}"


def read_outcome(run: Path) -> Outcome:
    return Outcome(**json.loads((run / "trained.json").read_text()))


def read_steps(run: Path) -> Iterator[Step]:
    """The updates so far; a last line torn by a kill is left out."""
    path = run / "steps.jsonl"
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Step(**json.loads(line))
        except (ValueError, TypeError):
            return


def _forget_steps_after(run: Path, update: int) -> None:
    """Updates after the last checkpoint are made again, and told again."""
    kept = [json.dumps(asdict(step)) + "\n" for step in read_steps(run) if step.index <= update]
    (run / "steps.jsonl").write_text("".join(kept), encoding="utf-8")


_KINDS: dict[str, type[LlmopsError]] = {
    kind.__name__: kind for kind in (InputError, EnvironmentFault, OutOfMemory, TrainingStopped)
}


def write_error(run: Path, error: LlmopsError) -> None:
    """Leave an error where the process that started us finds it."""
    record: dict[str, Any] = {
        "kind": type(error).__name__,
        "problem": error.problem,
        "fix": error.fix,
        "exit_code": error.exit_code,
    }
    write_json(run / "error.json", record)


def read_error(run: Path) -> LlmopsError | None:
    """The error a process of the run left, or None."""
    path = run / "error.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    if record["kind"] == Interrupted.__name__:
        return Interrupted(record["problem"], fix=record["fix"], exit_code=record["exit_code"])
    return _KINDS.get(record["kind"], TrainingStopped)(record["problem"], fix=record["fix"])
