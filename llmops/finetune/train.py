"""The training loop: updates from the order, loss by tokens, checkpoints, validation, safety.

The loop is written out once for every method and number of processes; what it minimises is in
`objective.py`, what it trains in `model.py`, which rows in `order.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from llmops.errors import Interrupted, OutOfMemory, TrainingStopped
from llmops.finetune import checkpoint
from llmops.finetune.attention import check_isolation
from llmops.finetune.checkpoint import Progress, State
from llmops.finetune.heap import kept_heap
from llmops.finetune.items import Items
from llmops.finetune.memory_use import peak_memory, reset_peak_memory
from llmops.finetune.model import LossModel, Placement, load_model, trained_parameters
from llmops.finetune.objective import Alike, objective_of
from llmops.finetune.optimizer import make_optimizer
from llmops.finetune.order import Order, Update
from llmops.finetune.parallel import Processes, gradients_stay_local, local_part, share
from llmops.finetune.passes import Feed, Passes
from llmops.finetune.recipe import Fsdp, Recipe
from llmops.finetune.schedule import learning_rate_factor
from llmops.finetune.sweep import Score, autocast, known_before, reference_of, score
from llmops.finetune.tokens import TokenStore
from llmops.records import Step

_SKIPS_IN_A_ROW = 20
"""fp16 updates that may overflow one after another while the loss scale is searched."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left: the live state with the weights to keep, and how it went."""

    state: State
    model: LossModel
    progress: Progress
    stopped_early: bool
    peak_bytes: int


class Trainer:
    """One run in one process.

    Args:
        references: where the reference's log-probabilities are kept; for methods that have one.
        teacher: loads the model that teaches; for the method that has one.
        stop: answers the signal that asked to stop, or 0; asked after every update.
        on_step: is told of every update, in the first process only.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        base: Path,
        train: TokenStore,
        validation: TokenStore | None,
        checkpoints: Path,
        placement: Placement,
        processes: Processes,
        pad_id: int,
        references: Path | None = None,
        teacher: Callable[[], LossModel] | None = None,
        stop: Callable[[], int] = lambda: 0,
        on_step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.recipe, self.base, self.placement, self.processes = recipe, base, placement, processes
        self.checkpoints, self.references, self.teacher = checkpoints, references, teacher
        self.stop, self.on_step = stop, on_step
        self.objective = objective_of(recipe.method)
        item = recipe.method.item
        feed = partial(Feed, recipe=recipe, placement=placement, processes=processes, pad_id=pad_id)
        self.feed = feed(Items.of(train, item))
        self.held_out = feed(Items.of(validation, item)) if validation is not None else None
        self.order = Order(
            lengths=self.feed.items.lengths,
            weights=self.feed.items.weights,
            batch=recipe.batch,
            schedule=recipe.schedule,
            seed=recipe.seed,
            world=processes.world,
            widest=item.widest,
        )

    def run(self) -> Trained:
        """Train to the end, or from the last good checkpoint to the end.

        Raises:
            TrainingStopped: the loss or the gradient is no number, or nothing was learned.
            EnvironmentFault: memory or disk ran out; the fix names what to lower.
            Interrupted: a signal asked to stop; a checkpoint was saved before.
        """
        reset_peak_memory(self.processes.device)
        # The seed covers the adapter's initial values, dropout and noise.
        torch.manual_seed(self.recipe.seed)
        self.model = self.load()
        if self.recipe.batch.packing:
            check_isolation(self.model.backbone, self.placement.attention, switch=self.model)
        self.wrapped = share(self.model, self.recipe, self.processes)
        if self.recipe.method.reference:
            self._refer()
        if isinstance(self.objective, Alike):
            if self.teacher is None:
                raise ValueError("a student that learns distributions needs its teacher")
            self.objective.teacher = self.teacher()
        self.optimizer = make_optimizer(self.recipe.optimizer, trained_parameters(self.model))
        split = isinstance(self.recipe.parallel, Fsdp)
        self.state = State(self.model, self.optimizer, self.processes, split)
        # Processes draw different dropout; the model above was drawn alike in all of them.
        torch.manual_seed(self.recipe.seed + self.processes.rank)
        scales = self.recipe.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=scales)
        self.skipped = 0
        initial = self._fingerprint()
        progress = Progress()
        resumed = checkpoint.latest(self.checkpoints)
        if resumed is not None:
            progress = checkpoint.restore(resumed, self.state)
            if progress.scaler:
                self.scaler.load_state_dict(dict(progress.scaler))
        stopped_early = self._out_of_patience(progress)
        if not stopped_early:
            with kept_heap(on_cpu=self.processes.device.type == "cpu"):
                progress, stopped_early = self._updates(progress, rehearse=resumed is None)
        if self.recipe.validation.keep_best and progress.best_update not in (0, progress.update):
            checkpoint.restore_weights(self.checkpoints / "best", self.state)
        self._refuse_unlearned(initial)
        peak = int(self.processes.largest(float(peak_memory(self.processes.device))))
        return Trained(self.state, self.model, progress, stopped_early, peak)

    def load(self) -> LossModel:
        """The model to train, on its device."""
        return load_model(self.recipe, self.base, self.placement, pad_id=self.feed.pad_id)

    def _refer(self) -> None:
        """What the base thinks of every label, before anything of it is trained or restored."""
        if self.references is None:
            raise ValueError(f"method {self.recipe.method.kind} needs a place for its reference's log-probabilities")
        for name, feed in (("train", self.feed), ("validation", self.held_out)):
            if feed is not None:
                feed.reference = reference_of(self.wrapped, self.model, feed, self.references / f"{name}.safetensors")

    def _updates(self, progress: Progress, *, rehearse: bool) -> tuple[Progress, bool]:
        total = self.order.total
        for update, passes in self.feed.updates(self.order, progress.update):
            progress, step = self._one_update(progress, update, passes)
            if rehearse:
                checkpoint.rehearse(self.checkpoints, self.state)
                rehearse = False
            last = update.index == total
            if self._validates(update, last):
                progress = self._validated(progress)
                step = replace(step, validation_loss=progress.validation_loss, validation_measures=progress.measures)
            if self.processes.first:
                self.on_step(step)
            signal = int(self.processes.largest(float(self.stop())))
            enough = self._out_of_patience(progress)
            if last or signal or enough or update.index % self.recipe.checkpoints.every == 0:
                self._save(progress)
            if signal and not (last or enough):
                raise Interrupted(
                    f"stopped by a signal after update {update.index} of {total}; a checkpoint is saved",
                    fix="run the same command again: it goes on from there",
                    exit_code=128 + signal,
                )
            if enough:
                return progress, True
        return progress, False

    def _one_update(self, progress: Progress, update: Update, passes: Passes) -> tuple[Progress, Step]:
        started = time.perf_counter()
        rows = update.rows
        trained_tokens = int(self.feed.items.trained_counts[rows].sum())
        totals = self.objective.totals(self.feed.items, rows)
        rate = self.recipe.optimizer.learning_rate * learning_rate_factor(
            self.recipe.schedule, update.index, self.order.total
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # The loss first, then its measures.
        sums = torch.zeros(1 + len(self.objective.measures), dtype=torch.float64, device=self.processes.device)
        precision, world = self.recipe.precision, self.processes.world
        try:
            known = known_before(self.wrapped, self.objective, passes.measured, self.processes, precision)
            self.wrapped.train()
            for number, one in enumerate(passes.trained):
                with gradients_stay_local(self.wrapped, local=number + 1 < len(passes.trained)):
                    with autocast(precision, self.processes):
                        loss, measured = self.objective.loss(self.wrapped, one, totals, known)
                    # Data-parallel averaging divides the summed gradient by the number of processes.
                    self.scaler.scale(loss * world).backward()
                sums += torch.cat([loss.detach().double()[None], measured])
            grad_norm = self._step(update.index)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise self._out_of_memory(update.index) from error
        own_tokens, loss_now, *measures = self.processes.sum([float(passes.tokens), *sums.tolist()])
        if not math.isfinite(loss_now):
            raise TrainingStopped(
                f"the loss of update {update.index} is {loss_now}; nothing of it was saved",
                fix="lower optimizer.learning_rate, raise schedule.warmup, or use precision bf16 or fp32",
            )
        seconds = time.perf_counter() - started
        progress = replace(
            progress,
            update=update.index,
            tokens=progress.tokens + int(own_tokens),
            trained_tokens=progress.trained_tokens + trained_tokens,
            seconds=progress.seconds + seconds,
            loss=loss_now,
            scaler=self.scaler.state_dict() if self.scaler.is_enabled() else None,
        )
        step = Step(
            index=update.index,
            epoch=update.epoch,
            loss=loss_now,
            grad_norm=grad_norm,
            learning_rate=rate,
            tokens=int(own_tokens),
            trained_tokens=trained_tokens,
            seconds=seconds,
            peak_bytes=peak_memory(self.processes.device),
            measures=self.objective.report(measures, totals),
        )
        return progress, step

    def _step(self, index: int) -> float:
        """Clip, refuse what is no number, and move the weights. Answers the norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for _, parameter in trained_parameters(self.model)]
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip or math.inf)
        grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(grad_norm):
            self.skipped += 1
            # While fp16 searches its loss scale an overflow is skipped by the scaler; elsewhere it is the end.
            if not self.scaler.is_enabled() or self.skipped > _SKIPS_IN_A_ROW:
                raise TrainingStopped(
                    f"the gradient of update {index} is {grad_norm}; nothing of it was saved",
                    fix="lower optimizer.learning_rate, raise schedule.warmup, or use precision bf16 or fp32",
                )
        else:
            self.skipped = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def _save(self, progress: Progress) -> None:
        checkpoint.save(self.checkpoints, checkpoint.name_of(progress.update), self.state, progress)
        if self.processes.first:
            checkpoint.prune(self.checkpoints, self.recipe.checkpoints.keep)

    # Validation

    def _validates(self, update: Update, last: bool) -> bool:
        if self.held_out is None:
            return False
        every = self.recipe.validation.every
        return last or math.floor(update.epoch / every + 1e-9) > math.floor(update.began / every + 1e-9)

    def _validated(self, progress: Progress) -> Progress:
        found = self.score()
        progress = replace(progress, validation_loss=found.loss, measures=found.measures)
        if progress.best_loss is not None and not found.loss < progress.best_loss:
            return replace(progress, without_gain=progress.without_gain + 1)
        progress = replace(
            progress,
            best_loss=found.loss,
            best_measures=found.measures,
            best_update=progress.update,
            without_gain=0,
        )
        if self.recipe.validation.keep_best:
            checkpoint.save(self.checkpoints, "best", self.state, progress)
        return progress

    def score(self) -> Score:
        """Loss and measures over all held-out rows."""
        assert self.held_out is not None
        return score(self.wrapped, self.objective, self.held_out)

    def _out_of_patience(self, progress: Progress) -> bool:
        patience = self.recipe.validation.patience
        return patience is not None and progress.without_gain >= patience

    # Safety

    def _fingerprint(self) -> list[tuple[float, float]]:
        with torch.no_grad():
            return [
                (float(local_part(one).double().sum()), float(local_part(one).double().abs().sum()))
                for _, one in trained_parameters(self.model)
            ]

    def _refuse_unlearned(self, initial: list[tuple[float, float]]) -> None:
        now = self._fingerprint()
        finite = all(math.isfinite(value) for pair in now for value in pair)
        changed, whole = self.processes.sum([float(now != initial), float(finite)])
        if whole < self.processes.world:
            raise TrainingStopped(
                "a trained weight is no finite number; no artifact was written",
                fix="lower optimizer.learning_rate or use precision bf16 or fp32",
            )
        if not now or not changed:
            raise TrainingStopped(
                "training left every weight at its initial value; no artifact was written",
                fix="raise optimizer.learning_rate, or train for more updates",
            )

    def _out_of_memory(self, update: int) -> OutOfMemory:
        batch = self.recipe.batch
        half = max(1, batch.per_device // 2)
        keys = []
        if batch.per_device > 1:
            keys.append(f"batch.per_device {half}")
        if not self.recipe.kernels.checkpointing:
            keys.append("kernels.checkpointing true")
        keys.append(f"batch.max_length {batch.max_length // 2}")
        return OutOfMemory(
            f"out of memory at update {update} on {self.processes.device} "
            f"({batch.per_device} sequences of up to {batch.max_length} tokens at a time)",
            fix=f"set {', or '.join(keys)}; `llmops plan` estimates each",
        )


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
