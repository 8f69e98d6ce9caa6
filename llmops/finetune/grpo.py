"""Reinforcement by group relative advantages through TRL's trainer, the one module that imports it.

What surrounds it is ours: the model as any other recipe trains it, optimizer, schedule, records and the artifact.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmops.errors import EnvironmentFault, InputError, Interrupted, OutOfMemory, TrainingStopped
from llmops.files import write_json
from llmops.finetune.artifact import save_artifact
from llmops.finetune.job import Job, Outcome
from llmops.finetune.memory_use import peak_memory, reset_peak_memory
from llmops.finetune.method import Grpo
from llmops.finetune.model import LossModel, Placement, load_model, trained_parameters
from llmops.finetune.optimizer import make_optimizer
from llmops.finetune.parallel import Processes
from llmops.finetune.recipe import Recipe
from llmops.finetune.schedule import learning_rate_factor
from llmops.records import Step

INSTALL = "pip install 'llmops[grpo]'"
PROMPTS = "prompts-{split}.jsonl"
"""In the run's folder: `{"messages": [...], "references": [...]}` a line."""

Score = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Sequence[float]]
"""From rows of the prompts' file and an answer to each, to what each answer is worth."""


@dataclass(frozen=True, slots=True)
class Reward:
    """One of the things an answer earns.

    Attributes:
        name: in records, unique in a run.
    """

    name: str
    weight: float
    score: Score


def updates_of(recipe: Recipe, prompts: int) -> int:
    """Updates of the whole run; an epoch answers every prompt `generations` times."""
    assert isinstance(recipe.method, Grpo)
    if recipe.schedule.steps is not None:
        return recipe.schedule.steps
    an_update = recipe.batch.sequences // recipe.method.generations
    epochs = 1.0 if recipe.schedule.epochs is None else recipe.schedule.epochs
    return math.ceil(epochs * prompts / an_update - 1e-9) * recipe.method.iterations


def reinforce(
    run: Path,
    rewards: Sequence[Reward],
    processes: Processes,
    *,
    stop: Callable[[], int] = lambda: 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Outcome:
    """Do the job of the folder `run`, whose prompts lie beside it.

    Raises:
        EnvironmentFault: TRL is not installed.
        InputError: there are fewer prompts than one update asks.
        OutOfMemory: the fix names what to lower.
        TrainingStopped: the loss is no number, or nothing was learned.
        Interrupted: a signal asked to stop; nothing was saved.
    """
    job = Job.read(run)
    method = job.recipe.method
    assert isinstance(method, Grpo)
    reset_peak_memory(processes.device)
    torch.manual_seed(job.recipe.seed)
    model = load_model(job.recipe, job.base.folder, Placement(processes.device, job.attention, job.liger))
    before = _fingerprint(model)
    train, held_out = read_prompts(run, "train"), read_prompts(run, "validation")
    an_update = job.recipe.batch.sequences // method.generations
    if len(train) < an_update:
        raise InputError(
            f"there are {len(train)} prompts to train on, and one update asks {an_update}",
            fix="lower batch.sequences, or raise method.generations",
        )
    log = _Log(run, job.recipe, model, processes, stop, on_step, updates_of(job.recipe, len(train)))
    with _plain_config(model):
        trainer = _trainer(run, job, model, rewards, train, held_out, log)
        base_reward = _held_out_reward(trainer) if held_out else None
        try:
            trainer.train()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"out of memory on {processes.device} after update {len(log.steps)}",
                fix="lower batch.per_device, method.max_tokens or method.vllm_memory",
            ) from error
    log.refuse_an_end_too_early()
    if _fingerprint(model) == before:
        raise TrainingStopped(
            "training left every weight at its initial value; no artifact was written",
            fix="see that answers to one prompt differ in reward (method.temperature, method.generations), "
            "or raise optimizer.learning_rate",
        )
    measures: dict[str, float] = {}
    if held_out and base_reward is not None:
        with _plain_config(model):
            measures = {"reward": _held_out_reward(trainer), "reward_before": base_reward}
    shutil.rmtree(run / "trl", ignore_errors=True)  # where the trainer would have saved something
    kind = save_artifact(model, job.recipe, job.base, run / "artifact", processes)
    outcome = log.outcome(kind, measures)
    write_json(run / "trained.json", asdict(outcome))
    return outcome


def read_prompts(run: Path, split: str) -> list[dict[str, Any]]:
    """The rows that are asked; none where the file is missing."""
    path = run / PROMPTS.format(split=split)
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def check_installed() -> None:
    """Raises EnvironmentFault where TRL is missing; imports nothing."""
    from importlib.util import find_spec

    if find_spec("trl") is None:
        raise EnvironmentFault("method grpo needs the package trl, which is not installed", fix=f"run `{INSTALL}`")


def answers_with(method: Grpo, device: str) -> tuple[bool, str]:
    """Whether vLLM answers while training on a device of this type, and why.

    Raises:
        EnvironmentFault: it is asked for, and cannot.
    """
    from importlib.util import find_spec

    there = find_spec("vllm") is not None
    if method.generate == "transformers":
        return False, "transformers, as the recipe says"
    if device != "cuda" or not there:
        why = "there is no GPU" if device != "cuda" else "vllm is not installed"
        if method.generate == "vllm":
            raise EnvironmentFault(
                f"method.generate is vllm, but {why}",
                fix=f"set method.generate to auto, or on a GPU run `{INSTALL}`",
            )
        return False, f"transformers: {why}"
    return True, f"vLLM beside the model, with {method.vllm_memory:.0%} of the GPU"


def trl_options(recipe: Recipe, *, device: str, total: int, weights: Sequence[float]) -> dict[str, Any]:
    """What TRL's trainer is told of a recipe, by its names; what it would choose itself is stated.

    Args:
        device: the type of torch's device.
        total: updates of the whole run.
        weights: of the rewards, in their order.
    """
    method = recipe.method
    assert isinstance(method, Grpo)
    return {
        "use_cpu": device == "cpu",
        "seed": recipe.seed,
        "max_steps": total,
        "per_device_train_batch_size": recipe.batch.per_device,
        "per_device_eval_batch_size": recipe.batch.per_device,
        "gradient_accumulation_steps": recipe.batch.passes(1),
        "num_generations": method.generations,
        "num_generations_eval": 1,
        "max_completion_length": method.max_tokens,
        "temperature": method.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "beta": method.beta,
        "epsilon": method.epsilon,
        "num_iterations": method.iterations,
        "loss_type": method.loss,
        "scale_rewards": method.scale,
        "reward_weights": list(weights),
        "max_grad_norm": recipe.optimizer.clip or 1e9,  # its 0 would not tell the norm
        "bf16": recipe.precision == "bf16",
        "fp16": recipe.precision == "fp16",
        "tf32": False if device == "cpu" else None,
        "gradient_checkpointing": recipe.kernels.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "use_vllm": answers_with(method, device)[0],
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": method.vllm_memory,
        "disable_dropout": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device == "cuda",
    }


def _trainer(
    run: Path,
    job: Job,
    model: LossModel,
    rewards: Sequence[Reward],
    train: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    log: _Log,
) -> Any:
    """TRL's trainer, told what the recipe says."""
    check_installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which vLLM it was tried with
        from datasets import Dataset
        from transformers import AutoTokenizer, PrinterCallback, ProgressCallback
        from trl import GRPOConfig, GRPOTrainer

    recipe, device = job.recipe, log.processes.device
    logging.getLogger("trl").setLevel(logging.ERROR)
    told = trl_options(recipe, device=device.type, total=log.total, weights=[reward.weight for reward in rewards])
    options = GRPOConfig(output_dir=str(run / "trl"), **told)
    optimizer = make_optimizer(recipe.optimizer, trained_parameters(model))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: learning_rate_factor(recipe.schedule, min(done + 1, log.total), log.total)
    )
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", recipe.optimizer.learning_rate)
    tokenizer = AutoTokenizer.from_pretrained(job.base.folder, local_files_only=True, padding_side="left")
    trainer = GRPOTrainer(
        model=model.inner,
        reward_funcs=[_as_trl_calls_it(reward) for reward in rewards],
        args=options,
        train_dataset=Dataset.from_list([_row(one) for one in train]),
        eval_dataset=Dataset.from_list([_row(one) for one in held_out]) if held_out else None,
        processing_class=tokenizer,
        callbacks=[log.callback()],
        optimizers=(optimizer, rate),
    )
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer


def _row(prompt: Mapping[str, Any]) -> dict[str, Any]:
    # As text: a table of nested columns fills keys that a turn does not have.
    return {"prompt": prompt["messages"], "row": json.dumps(prompt)}


def _as_trl_calls_it(reward: Reward) -> Callable[..., list[float]]:
    def score(*, completions: Any, row: Sequence[str], **_: Any) -> list[float]:
        answers = [one[-1]["content"] if isinstance(one, list) else str(one) for one in completions]
        return [float(value) for value in reward.score([json.loads(one) for one in row], answers)]

    score.__name__ = reward.name
    return score


def _held_out_reward(trainer: Any) -> float:
    """Mean reward of one answer to each held-out prompt."""
    return float(trainer.evaluate()["eval_reward"])


@contextmanager
def _plain_config(model: LossModel) -> Iterator[None]:
    """What the trainer notes in the model's configuration is taken back: the artifact's is the base's."""
    causal = model.causal
    was, generation = causal.config.to_dict(), causal.generation_config
    kept = {name: getattr(generation, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    cache = causal.config.use_cache
    try:
        yield
    finally:
        for name, value in was.items():
            if name in ("pad_token_id", "eos_token_id", "bos_token_id"):
                setattr(causal.config, name, value)
        causal.config.use_cache = cache
        for name, value in kept.items():
            setattr(generation, name, value)


def _fingerprint(model: LossModel) -> list[tuple[float, float]]:
    with torch.no_grad():
        return [(float(one.double().sum()), float(one.double().abs().sum())) for _, one in trained_parameters(model)]


class _Log:
    """Hears the trainer's updates, writes and passes them on, and asks it to stop."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        model: LossModel,
        processes: Processes,
        stop: Callable[[], int],
        on_step: Callable[[Step], None],
        total: int,
    ) -> None:
        self.run, self.recipe, self.processes, self.total = run, recipe, processes, total
        self.stop, self.on_step = stop, on_step
        self.steps: list[Step] = []
        self.tokens = 0
        self.signal = 0
        self.began = 0.0
        (run / "steps.jsonl").write_text("", encoding="utf-8")

    def callback(self) -> Any:
        from transformers import TrainerCallback

        heard, ended, begun = self._heard, self._ended, self._begun

        class Callback(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                begun()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop |= ended()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "reward" in logs and "loss" in logs:
                    heard(state.global_step, float(state.epoch or 0.0), logs)

        return Callback()

    def _begun(self) -> None:
        self.began = time.perf_counter()

    def _ended(self) -> bool:
        self.signal = self.signal or self.stop()
        return bool(self.signal)

    def _heard(self, index: int, epoch: float, said: Mapping[str, Any]) -> None:
        loss, norm = float(said["loss"]), float(said["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingStopped(
                f"the loss of update {index} is {loss} and its gradient {norm}; nothing of it was saved",
                fix="lower optimizer.learning_rate, raise schedule.warmup, or use precision bf16 or fp32",
            )
        tokens, self.tokens = int(said["num_tokens"]) - self.tokens, int(said["num_tokens"])
        step = Step(
            index=index,
            epoch=epoch,
            loss=loss,
            grad_norm=norm,
            learning_rate=float(said["learning_rate"]),
            tokens=tokens,
            trained_tokens=round(float(said["completions/mean_length"]) * self.recipe.batch.sequences),
            seconds=time.perf_counter() - self.began,
            peak_bytes=peak_memory(self.processes.device),
            measures=_measures(said),
        )
        self.steps.append(step)
        with (self.run / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        self.on_step(step)

    def refuse_an_end_too_early(self) -> None:
        """Raises Interrupted where a signal ended the training."""
        if self.signal and len(self.steps) < self.total:
            raise Interrupted(
                f"stopped by a signal after update {len(self.steps)} of {self.total}; grpo saves nothing on the way",
                fix="run the same command again: it begins anew",
                exit_code=128 + self.signal,
            )

    def outcome(self, kind: str, measures: Mapping[str, float]) -> Outcome:
        last = self.steps[-1]
        return Outcome(
            kind=kind,
            updates=last.index,
            tokens=sum(step.tokens for step in self.steps),
            trained_tokens=sum(step.trained_tokens for step in self.steps),
            seconds=sum(step.seconds for step in self.steps),
            loss=last.loss,
            validation_loss=None,
            best_update=0,
            stopped_early=False,
            peak_bytes=last.peak_bytes,
            validation_measures=dict(measures),
        )


_TOLD = {
    "reward": "reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "groups_without_difference",
    "entropy": "entropy",
    "kl": "kl",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "cut_answers",
    "clip_ratio/region_mean": "clipped_ratios",
}


def _measures(said: Mapping[str, Any]) -> dict[str, float]:
    """What TRL tells of an update, under our names; `reward.NAME` is each reward's own mean."""
    found = {ours: float(said[theirs]) for theirs, ours in _TOLD.items() if theirs in said}
    each = {name: value for name, value in said.items() if name.startswith("rewards/") and name.endswith("/mean")}
    return found | {f"reward.{name.split('/')[1]}": float(value) for name, value in each.items() if len(each) > 1}
