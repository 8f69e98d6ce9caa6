"""What one fine-tuning run is, as users write it in recipes/*.yaml.

Knows nothing of torch: a recipe is validated, explained and planned on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from llmops.config import Settings, Where, refuse
from llmops.data.section import (
    ROWS,
    DataSection,
    MessageRows,
    PreferenceRows,
    PromptRows,
    TextRows,
    TrainOrigin,
)
from llmops.errors import InputError
from llmops.finetune.method import METHODS, SFT, Distill, Dpo, Grpo, Method, Reward

Share = Annotated[float, Field(ge=0, lt=1)]


class Freeze(Settings):
    """Parts of the base that keep their values, for transfer learning."""

    embeddings: bool = False
    """Keep the token embeddings; with tied embeddings the output layer too."""
    layers: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | None = None
    """Decoder layers to keep, counted from 0: `0-20`, or `0-3,8`; null keeps none."""

    @field_validator("layers")
    @classmethod
    def _forwards(cls, layers: str | None) -> str | None:
        for part in (layers or "").split(","):
            first, _, last = part.partition("-")
            if last and int(last) < int(first):
                raise ValueError(f"{part} runs backwards; write {last}-{first}")
        return layers

    def frozen_layers(self) -> set[int]:
        """The numbers of the layers that keep their values."""
        kept: set[int] = set()
        for part in (self.layers or "").split(","):
            first, _, last = part.partition("-")
            if first:
                kept.update(range(int(first), int(last or first) + 1))
        return kept


class NoAdapter(Settings):
    """Full fine-tuning: the base's own weights are trained."""

    kind: Literal["none"] = "none"
    freeze: Freeze = Freeze()
    """Parts that keep their values."""


class Lora(Settings):
    """Train low-rank adapters beside frozen weights: W + (alpha / rank) · B A (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"]
    rank: PositiveInt = 16
    """Columns of A and B; more learns more and takes memory in proportion."""
    alpha: PositiveFloat = 32.0
    """Strength; the update is scaled by alpha / rank, with `rslora` by alpha / √rank."""
    dropout: Share = 0.0
    """Share of the adapter's inputs set to zero while training."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Which linear layers get one: all but the output layer, or names such as `[q_proj, v_proj]`."""
    variant: Literal["plain", "rslora", "dora"] = "plain"
    """`rslora` keeps the scale right at high rank; `dora` learns magnitudes too, a third slower."""
    base_bits: Literal[4, 8, 16] = 16
    """Bits per weight the frozen base is held in: 4 (nf4, double quantization) is what papers call QLoRA."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full beside the adapters; vLLM cannot load such an adapter, so `merge` it."""
    merge: bool = False
    """Leave a merged model as the artifact instead of the adapter; what it is merged into is the base in bf16."""


class Batch(Settings):
    sequences: PositiveInt = 32
    """Sequences between two optimizer updates, over all GPUs; packed sequences count as one each."""
    per_device: PositiveInt = 4
    """Sequences in one forward pass on one GPU; lower this first when memory runs out."""
    max_length: PositiveInt = 2048
    """Tokens a row may have; longer rows are dropped and named, never cut."""
    packing: bool = False
    """Put several rows into one sequence of `max_length`, isolated from each other; faster where lengths vary."""

    def passes(self, world: int) -> int:
        """Forward passes each of `world` processes makes per optimizer update.

        Raises:
            InputError: `sequences` cannot be split evenly; the nearest values that can are named.
        """
        at_once = self.per_device * world
        passes, left_over = divmod(self.sequences, at_once)
        if left_over or not passes:
            near = sorted({max(passes, 1) * at_once, (passes + 1) * at_once})
            raise InputError(
                f"batch.sequences is {self.sequences}, but {world} process(es) × {self.per_device} sequences "
                f"take {at_once} at a time",
                fix=f"set batch.sequences to {' or '.join(map(str, near))}, or change batch.per_device",
            )
        return passes


class Optimizer(Settings):
    name: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` holds its state in 8 bits: 2 bytes a weight instead of 8."""
    learning_rate: PositiveFloat = 2e-4
    """Peak step size; full fine-tuning wants about a tenth of what LoRA wants."""
    weight_decay: NonNegativeFloat = 0.0
    """Pull of matrices towards zero per step, times the learning rate; norms and biases are left alone."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the running mean and variance."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the variance."""


class Schedule(Settings):
    epochs: PositiveFloat | None = None
    """Passes over the training rows; give this or `steps`. Neither means one epoch."""
    steps: PositiveInt | None = None
    """Optimizer updates; give this or `epochs`."""
    warmup: Share = 0.03
    """Share of all updates over which the learning rate rises from zero."""
    shape: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How it falls afterwards; `wsd` stays at the peak and falls over the last fifth."""
    floor: Share = 0.0
    """Share of the peak it falls to."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both given; give one")
        return self


class Validation(Settings):
    """When the held-out rows are scored, and what follows from it."""

    every: PositiveFloat = 1.0
    """Epochs between two scorings."""
    patience: PositiveInt | None = None
    """Stop after so many scorings without a lower loss; null never stops early."""
    keep_best: bool = True
    """Leave the weights with the lowest validation loss as the artifact instead of the last ones."""


class Checkpoints(Settings):
    every: PositiveInt = 200
    """Updates between two checkpoints; a killed run loses at most so many."""
    keep: PositiveInt = 2
    """Checkpoints kept on disk; each holds the trained weights and the optimizer."""


class Kernels(Settings):
    """How the arithmetic is done. `auto` takes the fastest that this machine and model have, and prints which."""

    attention: Literal["auto", "varlen", "flash_attention_2", "sdpa", "eager"] = "auto"
    """Which attention; all of them keep packed documents apart, `varlen` and `flash_attention_2` without a mask."""
    liger: Literal["auto", "off"] = "auto"
    """Fused norms, rotary embeddings and SwiGLU on CUDA."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, activations of one layer instead of all."""
    compile: bool = False
    """`torch.compile` each decoder layer: minutes at the start, faster steps afterwards."""
    loss_chunk: PositiveInt = 1024
    """Trained tokens whose logits exist at one time."""


class Ddp(Settings):
    """Every process holds the whole model."""

    kind: Literal["ddp"] = "ddp"


class Fsdp(Settings):
    """Weights, gradients and optimizer state are split over all processes (FSDP2)."""

    kind: Literal["fsdp"]
    offload: bool = False
    """Keep the split weights in host memory between uses: slower, for models that do not fit otherwise."""


class Evaluate(Settings):
    """What is measured after training, base and tuned model side by side."""

    suites: Annotated[list[str], Field(min_length=1)]
    """Files of eval/suites/."""
    gate: str | None = None
    """A file of eval/gates/; null measures without judging."""


class Recipe(Settings):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
    """The model's name in the registry."""
    base: Annotated[str, Field(min_length=1)]
    """Model to start from: `builtin:tiny`, a hub id, `hub-id@revision`, a folder, or `models:/name@alias`."""
    data: DataSection
    """What is trained on."""
    method: Method = SFT
    """How it is trained."""
    adapter: Annotated[NoAdapter | Lora, Field(discriminator="kind")] = NoAdapter()
    """Which weights are trained."""
    batch: Batch = Batch()
    """How much is in one update and one pass."""
    optimizer: Optimizer = Optimizer()
    """How weights move."""
    schedule: Schedule = Schedule()
    """How long, and the learning rate over time."""
    validation: Validation = Validation()
    """Held-out loss while training."""
    checkpoints: Checkpoints = Checkpoints()
    """What is saved on the way."""
    kernels: Kernels = Kernels()
    """How the arithmetic is done."""
    parallel: Annotated[Ddp | Fsdp, Field(discriminator="kind")] = Ddp()
    """How several processes share the work; `--gpus` says how many."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Number format of the arithmetic; trained weights are kept in 32 bits beside it."""
    seed: NonNegativeInt = 0
    """Draws order, adapter initialisation and dropout; the same seed on the same machine gives the same weights."""
    evaluate: Evaluate | None = None
    """What is measured afterwards; null measures nothing."""

    @field_validator("base")
    @classmethod
    def _no_spaces(cls, base: str) -> str:
        if re.search(r"\s", base):
            raise ValueError("a model's name has no spaces")
        return base

    @field_validator("method", mode="before")
    @classmethod
    def _supervised_where_nothing_is_said(cls, method: object) -> object:
        return {"kind": "sft", **method} if isinstance(method, dict) else method

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """What would fail, or be read by nothing, is refused here and not after hours of training."""
        problems: dict[str, str] = {}
        if isinstance(self.method, Dpo) and self.method.loss == "ipo" and self.method.label_smoothing:
            problems["method.label_smoothing"] = "the loss ipo has none; leave the key out, or choose loss: sigmoid"
        adapter = self.adapter if isinstance(self.adapter, Lora) else None
        if adapter is not None and self.evaluate is not None and not adapter.merge:
            if adapter.modules_to_save:
                problems["adapter.modules_to_save"] = (
                    "vLLM cannot load an adapter with whole modules; set adapter.merge: true, or leave the key out"
                )
            if adapter.variant == "dora":
                problems["adapter.variant"] = "vLLM cannot load a dora adapter; set adapter.merge: true"
        if isinstance(self.parallel, Fsdp):
            if adapter is not None and adapter.base_bits == 8:
                problems["adapter.base_bits"] = "fsdp cannot split 8-bit weights; hold them in 4 or 16 bits, or use ddp"
            if self.optimizer.name == "adamw8bit":
                problems["optimizer.name"] = "fsdp cannot split the state of adamw8bit; use adamw, or ddp"
        if self.validation.patience is not None and self.data.validation == 0:
            problems["validation.patience"] = "nothing is held out to stop early on; give data.validation a share"
        problems |= self._unscored() if self.scores else {}
        problems |= self._not_reinforced() if isinstance(self.method, Grpo) else {}
        placed: dict[Where, str] = {tuple(key.split(".")): problem for key, problem in problems.items()}
        rows = [*self._rows_of_another_method(), *self._unread_margins(), *self._unanswered()]
        refuse({**dict(rows), **placed})
        return self

    @property
    def only_prompts(self) -> bool:
        """Whether the answers of the rows are left aside: the method makes its own."""
        return isinstance(self.method, Distill) and self.method.answers is not None

    def _not_reinforced(self) -> dict[str, str]:
        """What TRL's trainer does not read, by key."""
        assert isinstance(self.method, Grpo)
        found = {}
        if self.batch.sequences % self.method.generations:
            lower = max(1, self.batch.sequences // self.method.generations) * self.method.generations
            found["batch.sequences"] = (
                f"{self.batch.sequences} is no multiple of method.generations ({self.method.generations}); set {lower}"
            )
        if self.batch.packing:
            found["batch.packing"] = "grpo packs nothing; leave the key out"
        for key, part in (("validation", self.validation), ("checkpoints", self.checkpoints)):
            if part != type(part)():
                found[key] = "grpo saves nothing on the way and keeps the last weights; leave the section out"
        if isinstance(self.parallel, Fsdp):
            found["parallel.kind"] = "grpo runs in one process; leave the section out"
        if self.kernels.attention not in ("auto", "sdpa", "eager", "flash_attention_2"):
            found["kernels.attention"] = f"grpo cannot generate through {self.kernels.attention}; choose sdpa"
        if self.kernels.compile:
            found["kernels.compile"] = "grpo generates with the model it trains; leave the key out"
        if self.kernels.loss_chunk != Kernels().loss_chunk:
            found["kernels.loss_chunk"] = "grpo's trainer holds all logits of a pass; lower batch.per_device instead"
        return found

    def _unanswered(self) -> Iterator[tuple[Where, str]]:
        """Rows without what the method needs of them, or with what it does not read, each by its key."""
        for at, spec in self._sources_at():
            if self.only_prompts and isinstance(spec, TextRows):
                yield (*at, "text"), "a plain text asks the teacher nothing; name columns with prompts"
            if not self.only_prompts and isinstance(spec, PromptRows) and spec.completion is None:
                yield at, "`completion` is missing: the answer to train on, which only a teacher's can replace"
            tools = isinstance(spec, MessageRows) and spec.tools is not None
            if tools and (self.only_prompts or isinstance(self.method, Grpo)):
                yield (*at, "tools"), "who answers is not shown tools; leave the key or the source out"
            if isinstance(self.method, Grpo) and spec.weight != 1:
                yield (*at, "weight"), "grpo asks every prompt equally often; leave the key out"

    @property
    def scores(self) -> bool:
        """Whether what is trained gives answers a number, a reward model, instead of making them."""
        return isinstance(self.method, Reward)

    def _unscored(self) -> dict[str, str]:
        """What a model that answers nothing cannot do, by key."""
        found = {}
        if self.evaluate is not None:
            found["evaluate"] = (
                "there is no base to compare a reward model with; leave the section out, and judge its version by "
                "pairs of answers: `llmops eval models:/NAME/1 SUITE --gate GATE`, the suite's scorer reward_accuracy"
            )
        if isinstance(self.adapter, Lora):
            if self.adapter.merge:
                found["adapter.merge"] = "a reward model's adapter is not merged; leave the key out"
            named = [
                *self.adapter.modules_to_save,
                *([] if self.adapter.targets == "all-linear" else self.adapter.targets),
            ]
            if "lm_head" in named:
                found["adapter.targets" if "lm_head" in self.adapter.targets else "adapter.modules_to_save"] = (
                    "a reward model has a score in the place of lm_head, which is always trained; leave the name out"
                )
        return found

    def _unread_margins(self) -> Iterator[tuple[Where, str]]:
        """Margins of rows without a method that reads them, and the other way round, each by its key."""
        wanted = isinstance(self.method, Reward) and self.method.margin > 0
        for at, source in self._sources_at():
            if not isinstance(source, PreferenceRows):
                continue
            if wanted and source.margin is None:
                yield at, "method.margin needs the column it multiplies; name it as `margin`, or set method.margin to 0"
            if not wanted and source.margin is not None:
                fix = "set method to {kind: reward, margin: 1}, or leave the key out"
                yield (*at, "margin"), f"is read by nothing; {fix}"

    def _sources_at(self) -> Iterator[tuple[Where, TrainOrigin]]:
        """Every source of rows with its key."""
        validation = self.data.validation if isinstance(self.data.validation, list) else []
        for side, sources in (("train", self.data.train), ("validation", validation)):
            for number, source in enumerate(sources):
                yield ("data", side, number), source

    def _rows_of_another_method(self) -> Iterator[tuple[Where, str]]:
        """Sources whose rows the method does not train on, each by its key."""
        validation = self.data.validation if isinstance(self.data.validation, list) else []
        for side, sources in (("train", self.data.train), ("validation", validation)):
            for number, source in enumerate(sources):
                if source.makes in self.method.rows:
                    continue
                fitting = " or ".join(
                    str(get_args(one.model_fields["kind"].annotation)[0]) for one in METHODS if source.makes in one.rows
                )
                yield (
                    ("data", side, number),
                    f"method {self.method.kind} does not train on rows with {_keys(type(source))}; give the source "
                    f"{' or '.join(_keys(kind) for kind in ROWS if kind.makes in self.method.rows)}, "
                    f"or set method.kind to {fitting}",
                )


def attention_asked(recipe: Recipe) -> str:
    """The attention a recipe asks for; where it leaves the choice, grpo takes one that can also generate."""
    asked = recipe.kernels.attention
    return "sdpa" if asked == "auto" and isinstance(recipe.method, Grpo) else asked


def _keys(rows: type[TrainOrigin]) -> str:
    """The keys that only this kind of rows needs, as a sentence names them."""
    return " and ".join(
        f"`{name}`"
        for name, field in rows.model_fields.items()
        if (field.is_required() or name == "completion") and name != "source"
    )
