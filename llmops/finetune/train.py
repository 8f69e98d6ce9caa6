"""The training loop: updates from the order, loss by tokens, checkpoints, validation, safety.

The loop is written out once for every number of processes; what it computes is in
`losses.py`, what it trains in `model.py`, which rows in `order.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llmops.errors import Interrupted, OutOfMemory, TrainingStopped
from llmops.finetune import checkpoint
from llmops.finetune.attention import attention_inputs, check_isolation
from llmops.finetune.checkpoint import Progress, State
from llmops.finetune.heap import kept_heap
from llmops.finetune.losses import mean_loss, step_scale
from llmops.finetune.memory_use import peak_memory, reset_peak_memory
from llmops.finetune.model import DTYPES, LossModel, Placement, load_model, trained_parameters
from llmops.finetune.optimizer import make_optimizer
from llmops.finetune.order import Group, Order, Update
from llmops.finetune.packing import collate
from llmops.finetune.parallel import Processes, gradients_stay_local, local_part, share, split_again
from llmops.finetune.recipe import Fsdp, Recipe
from llmops.finetune.schedule import learning_rate_factor
from llmops.finetune.tokens import TokenStore
from llmops.records import Step

_SKIPS_IN_A_ROW = 20
"""fp16 updates that may overflow one after another while the loss scale is searched."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass on the device; `tokens` without padding."""

    inputs: dict[str, Any]
    tokens: int


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
        stop: Callable[[], int] = lambda: 0,
        on_step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.recipe, self.base, self.placement, self.processes = recipe, base, placement, processes
        self.train_store, self.validation_store = train, validation
        self.checkpoints, self.pad_id = checkpoints, pad_id
        self.stop, self.on_step = stop, on_step
        self.order = Order(
            lengths=train.lengths,
            weights=train.weights,
            batch=recipe.batch,
            schedule=recipe.schedule,
            seed=recipe.seed,
            world=processes.world,
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
            check_isolation(self.model.causal, self.placement.attention, switch=self.model)
        self.wrapped = share(self.model, self.recipe, self.processes)
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
        return load_model(self.recipe, self.base, self.placement)

    def _updates(self, progress: Progress, *, rehearse: bool) -> tuple[Progress, bool]:
        total = self.order.total
        for update, passes in self._prefetched(progress.update):
            progress, step = self._one_update(progress, update, passes)
            if rehearse:
                checkpoint.rehearse(self.checkpoints, self.state)
                rehearse = False
            last = update.index == total
            if self._validates(update, last):
                progress = self._validated(progress)
                step = replace(step, validation_loss=progress.validation_loss)
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

    def _one_update(self, progress: Progress, update: Update, passes: list[Pass]) -> tuple[Progress, Step]:
        started = time.perf_counter()
        rows = update.rows
        trained_tokens = int(self.train_store.trained_counts[rows].sum())
        scale = step_scale(trained_tokens, world=self.processes.world)
        rate = self.recipe.optimizer.learning_rate * learning_rate_factor(
            self.recipe.schedule, update.index, self.order.total
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.wrapped.train()
        total = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        try:
            for number, one in enumerate(passes):
                with gradients_stay_local(self.wrapped, local=number + 1 < len(passes)):
                    with self._autocast():
                        loss = self.wrapped(**one.inputs)
                    self.scaler.scale(loss * scale).backward()
                total += loss.detach()
            grad_norm = self._step(update.index)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise self._out_of_memory(update.index) from error
        summed, own_tokens = self.processes.sum([float(total), float(sum(one.tokens for one in passes))])
        loss_now = mean_loss(summed, trained_tokens)
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
        if self.validation_store is None:
            return False
        every = self.recipe.validation.every
        return last or math.floor(update.epoch / every + 1e-9) > math.floor(update.began / every + 1e-9)

    def _validated(self, progress: Progress) -> Progress:
        loss = self.validation_loss()
        if progress.best_loss is not None and not loss < progress.best_loss:
            return replace(progress, validation_loss=loss, without_gain=progress.without_gain + 1)
        progress = replace(progress, validation_loss=loss, best_loss=loss, best_update=progress.update, without_gain=0)
        if self.recipe.validation.keep_best:
            checkpoint.save(self.checkpoints, "best", self.state, progress)
        return progress

    def _out_of_patience(self, progress: Progress) -> bool:
        patience = self.recipe.validation.patience
        return patience is not None and progress.without_gain >= patience

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Nats per trained token over all held-out rows, independent of how they are batched.

        Draws no random numbers, so training goes on as if it had not been called.
        """
        store = self.validation_store
        assert store is not None
        by_length = np.argsort(-store.lengths, kind="stable")
        size, world = self.recipe.batch.per_device, self.processes.world
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        # Every process computes equally often, since split weights are gathered together.
        rounds = math.ceil(len(batches) / world)
        self.wrapped.eval()
        total = 0.0
        for number in range(rounds):
            place = number * world + self.processes.rank
            chosen = batches[place] if place < len(batches) else batches[0][:1]
            one = self._pass(store, [(int(row),) for row in chosen], untrained=place >= len(batches))
            with self._autocast():
                total += float(self.wrapped(**one.inputs))
        split_again(self.wrapped)
        self.wrapped.train()
        (summed,) = self.processes.sum([total])
        return mean_loss(summed, int(store.trained_counts.sum()))

    # Batches

    def _prefetched(self, after: int) -> Iterator[tuple[Update, list[Pass]]]:
        """Updates with their passes on the device; the next one is prepared while one is computed."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            waiting = None
            for update in self.order.updates(after):
                prepared = (update, ahead.submit(self._passes, update))
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = prepared
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _passes(self, update: Update) -> list[Pass]:
        passes = []
        for step in update.passes:
            mine = step[self.processes.rank]
            someone = next(groups for groups in step if groups)
            passes.append(self._pass(self.train_store, list(mine) or [someone[0]], untrained=not mine))
        return passes

    def _pass(self, store: TokenStore, groups: list[Group], *, untrained: bool) -> Pass:
        batch = collate(store, [list(group) for group in groups], self.pad_id)
        flat = np.flatnonzero(batch.trained.ravel()) if not untrained else np.empty(0, dtype=np.int64)
        device = self.processes.device
        inputs = {
            "input_ids": torch.from_numpy(batch.input_ids).to(device, non_blocking=True),
            # A trained token is predicted one position before it, which is of its own document:
            # the first token of a document is never trained.
            "positions": torch.from_numpy(flat - 1).to(device, non_blocking=True),
            "targets": torch.from_numpy(batch.input_ids.ravel()[flat]).to(device, non_blocking=True),
            **attention_inputs(batch, self.placement.attention, device=device, dtype=DTYPES[self.recipe.precision]),
        }
        tokens = 0 if untrained else int((batch.documents >= 0).sum())
        return Pass(inputs, tokens)

    def _autocast(self) -> Any:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.processes.device.type, dtype=DTYPES[self.recipe.precision])

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
