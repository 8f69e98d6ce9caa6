"""What a run will take before anything is loaded: updates, tokens, memory by part, time, cost, and where it fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from llmops.errors import EnvironmentFault, InputError
from llmops.finetune.activations import Arithmetic, Load, arithmetic_of
from llmops.finetune.lengths import LengthProfile, padded
from llmops.finetune.memory import estimate_memory, with_teacher
from llmops.finetune.method import Grpo
from llmops.finetune.recipe import Fsdp, Lora, NoAdapter, Recipe, attention_asked
from llmops.finetune.rollouts import with_rollouts
from llmops.finetune.shape import ModelShape
from llmops.finetune.trained import score_weights, trained_shape, trained_weights
from llmops.finetune.work import Flops, Tokens, count_flops, count_forward, seconds_for
from llmops.hardware import KNOWN_GPUS, Device
from llmops.records import MemoryEstimate

_WORLDS = (1, 2, 4, 8, 16, 32, 64)
_UNSEEN = 1.5
"""Where only some rows were seen, the longest of all is taken to be so many times as long as the longest of those."""

_SHORTEST = 64
"""Tokens; nobody is told to cut rows below."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a run fits on a kind of GPU: `gpus` of them are needed, 0 when no number helps; `why_not` then says why.

    `bytes` is needed on each.
    """

    gpu: str
    gpus: int
    bytes: int
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A key to change when memory is short, and the bytes needed then."""

    key: str
    value: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.key} {self.value} ({gib(self.bytes)})"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take.

    Attributes:
        updates: optimizer updates of the whole run; `updates_per_epoch` of one pass over the rows.
        sequences: of one epoch; packed ones count as one each.
        tokens: of the whole run.
        memory: on one GPU, or in one CPU process.
        suggestions: keys that save memory, each estimated alone, those that make the run fit first.
        together: bytes needed with the first three of them.
        tokens_per_s: tokens used, padding left out, over all devices.
        cost: in US dollars; None without a price.
        notes: what was assumed, a sentence each.
    """

    world: int
    device: Device
    precision: str
    attention: str
    updates: int
    updates_per_epoch: int
    passes: int
    sequences: int
    tokens: Tokens
    trained_weights: int
    weights: int
    flops: Flops
    memory: MemoryEstimate
    seconds: float
    tokens_per_s: float
    cost: float | None
    fits: tuple[Fit, ...]
    suggestions: tuple[Suggestion, ...]
    together: int
    notes: tuple[str, ...]

    @property
    def needed_bytes(self) -> int:
        """What the device must have: one GPU holds one process, a CPU's memory all of them."""
        return self.memory.total * (self.world if self.device.kind == "cpu" else 1)

    @property
    def fits_device(self) -> bool:
        return self.needed_bytes <= self.device.usable_bytes

    def mfu(self, tokens_per_s: float) -> float:
        """Model FLOPs utilisation at a measured speed, 0 to 1: operations by `flops.formula` over the devices' peak.

        On a CPU, whose peak is not known, it is the share of the speed that was expected.
        """
        peak = self.device.teraflops[self.precision] * 1e12 * (self.world if self.device.kind == "cuda" else 1)
        return self.flops.model / self.tokens.used * tokens_per_s / peak

    @property
    def utilisation(self) -> float:
        """Share of what is computed that is no padding."""
        return self.tokens.used / self.tokens.computed if self.tokens.computed else 1.0

    def predicted(self) -> dict[str, float]:
        """What the run compares with what it measured, under the same keys."""
        return {
            "peak_bytes": float(self.memory.total),
            "seconds": self.seconds,
            "tokens_per_s": self.tokens_per_s,
        }


def make_plan(
    recipe: Recipe,
    shape: ModelShape,
    lengths: LengthProfile,
    *,
    world: int,
    device: Device,
    price_per_gpu_hour: float | None,
    attention: str | None = None,
    liger: bool | None = None,
    teacher: ModelShape | None = None,
    reward_models: Sequence[ModelShape] = (),
) -> Plan:
    """Everything a run will take, from shapes and lengths alone.

    Args:
        world: processes, one per GPU.
        attention, liger: what was chosen where the run will be; None assumes what `auto` takes there.
        teacher: whose distributions are learned, held beside the student.
        reward_models: that reward the model's own answers, held beside it.

    Raises:
        InputError: the batch cannot be split over `world` processes, or there is no row.
        EnvironmentFault: the device has no arithmetic of the recipe's precision.
    """
    if lengths.rows <= 0:
        raise InputError(
            "there is no row to train on", fix="give data.train a source with rows of at most batch.max_length tokens"
        )
    shape = trained_shape(recipe, shape)
    attention = attention or attention_on(recipe, shape, device)
    sequences, epoch = _one_epoch(recipe, lengths, attention)
    per_epoch = max(1, math.ceil(sequences / recipe.batch.sequences))
    updates = _updates(recipe, per_epoch)
    tokens = epoch.times(updates / per_epoch)
    flops = count_flops(recipe, shape, tokens)
    item = recipe.method.item
    # Sequences that are measured are taken to be as long as those that are trained.
    measured = count_forward(shape, tokens) * len(item.measured) / len(item.trained)
    taught = count_forward(teacher, tokens) if teacher is not None else 0.0
    flops = replace(flops, computed=flops.computed + measured + taught)
    # Processes on one CPU share its cores.
    devices = world if device.kind == "cuda" else 1
    seconds = seconds_for(recipe, flops, device, devices=devices)
    beside = _Beside(teacher, tuple(reward_models))
    memory = _memory(recipe, shape, lengths, device, beside, world=world, attention=attention, liger=liger)
    hours = seconds * devices / 3600
    suggestions, together = _suggestions(recipe, shape, lengths, device, world, beside)
    return Plan(
        world=world,
        device=device,
        precision=recipe.precision,
        attention=attention,
        updates=updates,
        updates_per_epoch=per_epoch,
        passes=recipe.batch.passes(world),
        sequences=sequences,
        tokens=tokens,
        trained_weights=trained_weights(recipe, shape),
        weights=shape.parameters.total + score_weights(recipe, shape),
        flops=flops,
        memory=memory,
        seconds=seconds,
        tokens_per_s=tokens.used / seconds,
        cost=None if price_per_gpu_hour is None else price_per_gpu_hour * hours,
        fits=tuple(_fits(recipe, shape, lengths, beside)),
        suggestions=suggestions,
        together=together,
        notes=(*_notes(recipe, lengths, device), *_reference_notes(recipe, shape, epoch, device, devices=devices)),
    )


def attention_on(recipe: Recipe, shape: ModelShape, device: Device) -> str:
    """The attention that `auto` takes on a device: by documents where rows are packed and its kernel runs there."""
    chosen = attention_asked(recipe)
    if chosen != "auto":
        return chosen
    has_kernel = "bf16" in device.teraflops and recipe.precision != "fp32" and shape.head_dim <= 256
    if device.kind == "cpu":
        return "varlen" if recipe.batch.packing or recipe.precision != "fp32" else "sdpa"
    return "varlen" if recipe.batch.packing and has_kernel else "sdpa"


def check_memory(plan: Plan) -> None:
    """Refuse a run that cannot fit where it would run.

    Raises:
        EnvironmentFault: names the two or three keys that help, with the estimate for each.
    """
    if plan.fits_device:
        return
    on_gpu = plan.device.kind == "cuda"
    where = f"each {plan.device.name}" if on_gpu and plan.world > 1 else plan.device.name
    raise EnvironmentFault(
        f"training needs about {gib(plan.needed_bytes)} on {where}, which has {gib(plan.device.usable_bytes)} to give",
        fix=way_out(plan),
    )


def way_out(plan: Plan) -> str:
    """What to change where memory is short, in one sentence."""
    ways = [str(suggestion) for suggestion in plan.suggestions[:3]]
    share = plan.world if plan.device.kind == "cpu" else 1
    if any(share * one.bytes <= plan.device.usable_bytes for one in plan.suggestions[:3]):
        return f"set {', or '.join(ways)}"
    if ways and share * plan.together <= plan.device.usable_bytes:
        return f"set {' and '.join(ways)}: {gib(plan.together)} together"
    enough = ", ".join(f"{fit.gpus} × {fit.gpu}" for fit in reversed(plan.fits) if fit.gpus)
    larger = f"take a larger device ({enough})" if enough else "choose a smaller base"
    return f"set {', '.join(ways)}, which is {gib(plan.together)} together; or {larger}" if ways else larger


def gib(amount: float) -> str:
    """Bytes as a reader wants them: `1.2 GiB`, `640 MiB`."""
    return f"{amount / 2**30:,.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:,.0f} MiB"


# Updates and tokens


def _one_epoch(recipe: Recipe, lengths: LengthProfile, attention: str) -> tuple[int, Tokens]:
    """Sequences that fill updates, and tokens, of one epoch; items of several sequences fill them as one each."""
    batch, together = recipe.batch, len(recipe.method.item.trained)
    if not batch.packing:
        sequences = math.ceil(lengths.rows / together - 1e-6)
        width = padded(lengths.longest_of(batch.per_device * together))
        computed, squares = sequences * together * width, float(sequences * together * width**2)
    else:
        capacity = batch.max_length * together
        sequences = lengths.packed_sequences(capacity)
        width = padded(min(float(capacity), lengths.tokens))
        computed = sequences * width
        # Without a kernel for documents the scores of all pairs of a sequence are computed and masked.
        squares = lengths.squares if attention in ("varlen", "flash_attention_2") else sequences * width**2
    used = min(lengths.tokens, computed)
    return sequences, Tokens(used, lengths.trained_tokens, lengths.squares, computed, max(squares, lengths.squares))


def _updates(recipe: Recipe, per_epoch: int) -> int:
    schedule = recipe.schedule
    if schedule.steps is not None:
        return schedule.steps
    epochs = 1.0 if schedule.epochs is None else schedule.epochs
    whole = math.floor(epochs)
    part = epochs - whole
    return whole * per_epoch + (math.ceil(part * per_epoch) if part > 1e-9 else 0)


# Memory


@dataclass(frozen=True, slots=True)
class _Beside:
    """Models that are held beside the one that is trained."""

    teacher: ModelShape | None
    reward_models: tuple[ModelShape, ...]


def _load(recipe: Recipe, lengths: LengthProfile, world: int) -> Load:
    """The fullest pass: the longest rows together, which training begins with."""
    batch, together = recipe.batch, len(recipe.method.item.trained)
    if batch.packing:
        capacity = batch.max_length * together
        length = min(float(capacity), lengths.tokens)
        sequences = min(batch.per_device, math.ceil(lengths.tokens / capacity))
    else:
        length = min(_longest(recipe, lengths), batch.max_length + _answer(recipe))
        sequences = min(batch.per_device * together, math.ceil(lengths.rows - 1e-6))
    # A score is taken where a sequence ends, and nowhere else.
    trained = sequences if recipe.scores else math.ceil(sequences * length * lengths.trained_share)
    passes = batch.passes(world)
    batches = passes * _updates(recipe, max(1, math.ceil(lengths.rows / together / batch.sequences)))
    widths = 1.0 if batch.packing else lengths.widths(batch.per_device * together, batches)
    return Load(sequences, padded(length), trained, passes, widths)


def _memory(
    recipe: Recipe,
    shape: ModelShape,
    lengths: LengthProfile,
    device: Device,
    beside: _Beside,
    *,
    world: int,
    attention: str | None = None,
    liger: bool | None = None,
) -> MemoryEstimate:
    on_gpu = device.kind == "cuda"
    arithmetic: Arithmetic = arithmetic_of(
        recipe,
        on_gpu=on_gpu,
        attention=attention or attention_on(recipe, shape, device),
        liger=(on_gpu and recipe.kernels.liger == "auto") if liger is None else liger,
    )
    load = _load(recipe, lengths, world)
    found = estimate_memory(recipe, shape, arithmetic, load, world=world)
    if isinstance(recipe.method, Grpo):
        return with_rollouts(found, recipe, shape, arithmetic, load, device, reward_models=beside.reward_models)
    return found if beside.teacher is None else with_teacher(found, recipe, shape, beside.teacher, load)


def _answer(recipe: Recipe) -> int:
    """Tokens that the model's own answer adds to a row's at most."""
    return recipe.method.max_tokens if isinstance(recipe.method, Grpo) else 0


def _with_answers(lengths: LengthProfile, more: int) -> LengthProfile:
    """The rows with answers of so many tokens more, or fewer."""
    counts = tuple((length + more, rows) for length, rows in lengths.counts)
    return replace(lengths, counts=counts, trained_tokens=lengths.trained_tokens + more * lengths.rows)


def _longest(recipe: Recipe, lengths: LengthProfile) -> float:
    """The longest sequence; where only some rows were seen others may be longer, an answer is at its longest."""
    answer = _answer(recipe)
    return lengths.longest if lengths.exact else answer + _UNSEEN * (lengths.longest - answer)


def _fits(recipe: Recipe, shape: ModelShape, lengths: LengthProfile, beside: _Beside) -> Iterator[Fit]:
    for key, gpu in KNOWN_GPUS.items():
        if recipe.precision not in gpu.teraflops:
            yield Fit(key, 0, 0, f"no {recipe.precision} arithmetic")
            continue
        needed = 0
        for world in _WORLDS if isinstance(recipe.parallel, Fsdp) else (1,):
            if not _splits(recipe, world):
                continue
            needed = _memory(recipe, shape, lengths, gpu, beside, world=world).total
            if needed <= gpu.usable_bytes:
                yield Fit(key, world, needed)
                break
        else:
            split = f"split over {world} " if isinstance(recipe.parallel, Fsdp) else ""
            yield Fit(key, 0, needed, f"needs {gib(needed)} {split}each")


def _splits(recipe: Recipe, world: int) -> bool:
    try:
        recipe.batch.passes(world)
    except InputError:
        return False
    return True


Change = Callable[[Recipe], Recipe]


def _suggestions(
    recipe: Recipe,
    shape: ModelShape,
    lengths: LengthProfile,
    device: Device,
    world: int,
    beside: _Beside,
) -> tuple[tuple[Suggestion, ...], int]:
    """Keys that save memory, those that make the run fit first, each estimated alone; and the first three together."""

    def needed(changed: Recipe) -> int:
        rows = _with_answers(lengths, _answer(changed) - _answer(recipe))
        return _memory(changed, shape, rows, device, beside, world=world).total

    room = device.usable_bytes // (world if device.kind == "cpu" else 1)
    now = needed(recipe)
    found: list[tuple[Suggestion, Change]] = []
    for key, values in _changes(recipe, world):
        # Of values that save more and more, the first that is enough.
        for value, change in values:
            suggestion = Suggestion(key, value, needed(change(recipe)))
            if suggestion.bytes <= room:
                break
        if values and suggestion.bytes < 0.98 * now:
            found.append((suggestion, change))
    # Within each half the order is that of what a change costs in speed and quality.
    found.sort(key=lambda one: one[0].bytes > room)
    together = recipe
    for _, change in found[:3]:
        together = change(together)
    if needed(together) > room:
        # What costs least is not enough: now each step is the one that saves most beside those before it.
        together, left = recipe, list(found)
        chosen: list[tuple[Suggestion, Change]] = []
        while left and len(chosen) < 3:
            best = min(left, key=lambda one: needed(one[1](together)))
            left.remove(best)
            chosen.append(best)
            together = best[1](together)
        found = chosen + left
    return tuple(suggestion for suggestion, _ in found), needed(together)


def _changes(recipe: Recipe, world: int) -> Iterator[tuple[str, list[tuple[str, Change]]]]:
    """What could be lowered, the cheapest key first, each with values that save more and more."""
    batch = recipe.batch
    halves = [batch.per_device >> times for times in range(1, batch.per_device.bit_length())]
    smaller = [half for half in halves if half and batch.sequences % (half * world) == 0]
    yield "batch.per_device", [(str(half), partial(_set, "batch", per_device=half)) for half in smaller]
    if not recipe.kernels.checkpointing:
        yield "kernels.checkpointing", [("true", partial(_set, "kernels", checkpointing=True))]
    if world > 1 and not isinstance(recipe.parallel, Fsdp):
        yield "parallel", [("{kind: fsdp}", partial(_replace, "parallel", Fsdp(kind="fsdp")))]
    if isinstance(recipe.adapter, Lora) and recipe.adapter.base_bits > 4:
        yield "adapter.base_bits", [("4", partial(_set, "adapter", base_bits=4))]
    if isinstance(recipe.adapter, NoAdapter):
        if recipe.optimizer.name == "adamw":
            yield "optimizer.name", [("adamw8bit", partial(_set, "optimizer", name="adamw8bit"))]
        yield "adapter", [("{kind: lora}", partial(_replace, "adapter", Lora(kind="lora")))]
    if isinstance(recipe.method, Grpo):
        if recipe.method.generate != "transformers":
            shares = [share for share in (0.25, 0.2, 0.15) if share < recipe.method.vllm_memory]
            yield "method.vllm_memory", [(str(one), partial(_set, "method", vllm_memory=one)) for one in shares]
        answers = [length for times in (1, 2, 3) if (length := recipe.method.max_tokens >> times) >= _SHORTEST]
        yield "method.max_tokens", [(str(one), partial(_set, "method", max_tokens=one)) for one in answers]
    shorter = [batch.max_length >> times for times in (1, 2, 3) if batch.max_length >> times >= _SHORTEST]
    yield "batch.max_length", [(str(length), partial(_set, "batch", max_length=length)) for length in shorter]


def _set(section: str, recipe: Recipe, **values: object) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


def _replace(section: str, value: object, recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={section: value})


def _reference_notes(
    recipe: Recipe, shape: ModelShape, epoch: Tokens, device: Device, *, devices: int
) -> Iterator[str]:
    if not recipe.method.reference:
        return
    item = recipe.method.item
    forward = count_forward(shape, epoch) * item.sequences / len(item.trained)
    seconds = seconds_for(recipe, Flops(forward, forward, "forward"), device, devices=devices)
    yield (
        f"before the first update, about {max(1, round(seconds)):,} s more: what the base thinks of every answer is "
        "computed once and kept with the tokens; no second model is held while training"
    )


def _notes(recipe: Recipe, lengths: LengthProfile, device: Device) -> tuple[str, ...]:
    share = "" if device.kind == "cpu" else f"{device.mfu:.0%} of its peak: "
    notes = [f"row lengths: {lengths.origin}", f"speed: {share}{device.mfu_origin}"]
    longest, answer = _longest(recipe, lengths), _answer(recipe)
    if not lengths.exact and not recipe.batch.packing and longest < recipe.batch.max_length + answer:
        notes.append(
            f"memory is planned for rows of {round(longest - answer)} tokens, {_UNSEEN:g} times the longest seen"
            + (f", and answers of {answer}" if answer else "")
        )
    return tuple(notes)
