"""From a base on disk to the module that is trained: precision, quantization, frozen parts, adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmops.errors import InputError
from llmops.finetune.distillation import Logits
from llmops.finetune.distillation_loss import Taught, distillation_sums
from llmops.finetune.losses import loss_sum, token_losses
from llmops.finetune.method import Sft
from llmops.finetune.recipe import Lora, NoAdapter, Recipe

_SWITCH = "_disable_adapters"
"""The attribute by which peft's layers know whether they add anything."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class LossModel(nn.Module):
    """A causal language model that answers with the loss sum of the positions asked for.

    The loss is inside so that logits exist only where tokens are trained, and so that
    FSDP's and DDP's forward hooks see all of the work.
    """

    def __init__(self, inner: nn.Module, *, chunk: int, neftune: float = 0.0) -> None:
        super().__init__()
        self.inner = inner
        self.chunk = chunk
        self._quantized = [part for part in inner.modules() if hasattr(part, "set_compute_type")]
        causal = self.causal
        self._softcap = getattr(causal.config, "final_logit_softcapping", None)
        self._hidden_factor = _hidden_factor(causal.config)
        if neftune:
            causal.get_input_embeddings().register_forward_hook(_Neftune(neftune))

    @property
    def causal(self) -> Any:
        """The transformers model inside, whatever wraps it."""
        return self.inner.get_base_model() if hasattr(self.inner, "get_base_model") else self.inner

    @property
    def backbone(self) -> Any:
        """The decoder below the output layer."""
        return getattr(self.causal, self.causal.base_model_prefix)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers in order."""
        return list(self.backbone.layers)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Forward passes inside are those of the base: an adapter is switched off, nothing else is touched.

        peft's own switch also freezes the adapter for that time, which FSDP would take for its state for good.
        """
        layers: list[Any] = [part for part in self.inner.modules() if hasattr(part, _SWITCH)]
        before = [getattr(part, _SWITCH) for part in layers]
        try:
            for part in layers:
                setattr(part, _SWITCH, True)
            yield
        finally:
            for part, value in zip(layers, before, strict=True):
                setattr(part, _SWITCH, value)

    def train(self, mode: bool = True) -> LossModel:
        """Switch dropout and noise; the 4-bit layers stay as they are for training.

        On a CPU, bitsandbytes repacks 4-bit weights for inference at the first pass in evaluation
        mode and does not undo it: training would go on without gradients through them.
        """
        super().train(mode)
        for part in self._quantized:
            part.training = True
        return self

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        targets: Tensor,
        *,
        each: bool = False,
        taught: Taught | None = None,
        logits: Logits | None = None,
        **attention: Any,
    ) -> Tensor:
        """Loss sum in nats, or with `each` the loss of every trained token, `(trained,)`.

        Args:
            input_ids: `(sequences, length)`.
            positions: `(trained,)` flat indices into them: where a trained token is predicted from.
            targets: `(trained,)` the tokens predicted there.
            taught: what a teacher makes of the same positions; with it and `logits` the answer is that of
                `distillation_sums`.
            attention: what the attention implementation needs, from `attention.py`.
        """
        chosen = self._chosen(input_ids, positions, attention)
        head = self.causal.get_output_embeddings()
        if taught is not None:
            assert logits is not None
            return distillation_sums(chosen, head, targets, taught, logits, chunk=self.chunk, softcap=self._softcap)
        losses = token_losses if each else loss_sum
        return losses(chosen, head, targets, chunk=self.chunk, softcap=self._softcap)

    @torch.no_grad()
    def teach(self, input_ids: Tensor, positions: Tensor, targets: Tensor, **attention: Any) -> Taught:
        """What this model makes of the positions, for a student; arguments as those of a pass."""
        chosen = self._chosen(input_ids, positions, attention)
        return Taught(chosen, self.causal.get_output_embeddings(), self._softcap)

    def _chosen(self, input_ids: Tensor, positions: Tensor, attention: dict[str, Any]) -> Tensor:
        """`(trained, width)` hidden states that the output layer makes logits of."""
        hidden = self.backbone(input_ids=input_ids, use_cache=False, **attention).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        if torch.is_autocast_enabled(chosen.device.type):
            chosen = chosen.to(torch.get_autocast_dtype(chosen.device.type))
        if self._hidden_factor != 1.0:
            chosen = chosen * self._hidden_factor
        return chosen


class ScoreModel(LossModel):
    """A sequence classifier of one label that answers with the score of the positions asked for, `(positions,)`."""

    def forward(  # type: ignore[override]  # an objective calls the model that goes with it
        self, input_ids: Tensor, positions: Tensor, **attention: Any
    ) -> Tensor:
        """Scores in float32.

        Args:
            input_ids: `(sequences, length)`.
            positions: `(positions,)` flat indices into them: where documents end.
            attention: as `LossModel.forward`.
        """
        hidden = self.backbone(input_ids=input_ids, use_cache=False, **attention).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
        # In 32 bits also under autocast: scores of 16 bits are too coarse to be compared.
        with torch.autocast(chosen.device.type, enabled=False):
            return (chosen.float() @ self.causal.score.weight.float().T)[:, 0]


class _Neftune:
    """Uniform noise of size alpha / √(length · width) on the embeddings while training (arXiv:2310.05914)."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        size = self.alpha / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.empty_like(output).uniform_(-size, size)


def _hidden_factor(config: Any) -> float:
    """Granite divides its logits by a number, Cohere multiplies them; the same as scaling the hidden states."""
    if getattr(config, "logits_scaling", None):
        return 1.0 / float(config.logits_scaling)
    return float(getattr(config, "logit_scale", None) or 1.0)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how the arithmetic is done; every choice with its reason is printed by the caller."""

    device: torch.device
    attention: str
    liger: bool
    world: int = 1


def load_model(recipe: Recipe, base: Path, placement: Placement, *, pad_id: int | None = None) -> LossModel:
    """The base at `base` made trainable as `recipe` says, in training mode on its device.

    Draws the weights of an adapter or of a score from the generator of the current process: seed it before.

    Args:
        pad_id: the token that pads, by which who loads a model that scores finds the ends of its sequences.

    Raises:
        InputError: the adapter's targets or rank do not fit the model, or its architecture cannot score.
    """
    adapter = recipe.adapter
    causal = _base(recipe, base, placement)
    if recipe.scores:
        causal.config.get_text_config().pad_token_id = pad_id
    if placement.liger:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(causal, cross_entropy=False, fused_linear_cross_entropy=False)
    inner: Any = causal
    if isinstance(adapter, Lora):
        inner = _with_lora(causal, adapter, scores=recipe.scores)
    else:
        _freeze(causal, recipe)
    if recipe.kernels.checkpointing:
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    neftune = recipe.method.neftune if isinstance(recipe.method, Sft) else 0.0
    made = ScoreModel if recipe.scores else LossModel
    model = made(inner, chunk=recipe.kernels.loss_chunk, neftune=neftune)
    if not (isinstance(adapter, Lora) and adapter.base_bits < 16):
        model.to(placement.device)
    if recipe.kernels.compile:
        for layer in model.layers:
            layer.compile()
    model.train()
    return model


def _base(recipe: Recipe, base: Path, placement: Placement) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the caller shows progress in its own way

    adapter = recipe.adapter
    bits = adapter.base_bits if isinstance(adapter, Lora) else 16
    compute = DTYPES[recipe.precision]
    # Trained weights are kept in 32 bits; a frozen base in the precision of the arithmetic.
    dtype = compute if isinstance(adapter, Lora) else torch.float32
    options: dict[str, Any] = {}
    if bits == 4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            bnb_4bit_quant_storage=compute,
        )
    elif bits == 8:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if bits < 16:
        options["device_map"] = {"": placement.device}
    if recipe.scores:
        options["num_labels"] = 1
    with _expected_new_score() if recipe.scores else nullcontext():
        return (AutoModelForSequenceClassification if recipe.scores else AutoModelForCausalLM).from_pretrained(
            base,
            dtype=dtype,
            attn_implementation=placement.attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )


@contextmanager
def _expected_new_score() -> Iterator[None]:
    """Without transformers' warning that the score is new and the output layer is left out."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _with_lora(causal: Any, adapter: Lora, *, scores: bool) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if scores else TaskType.CAUSAL_LM,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets),
        use_rslora=adapter.variant == "rslora",
        use_dora=adapter.variant == "dora",
        modules_to_save=[*adapter.modules_to_save, *(["score"] if scores else [])] or None,
        bias="none",
    )
    try:
        inner = get_peft_model(causal, config)
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, part in causal.named_modules() if isinstance(part, nn.Linear)}
        )
        raise InputError(
            f"adapter.targets {adapter.targets} names no layer of the base",
            fix=f"name some of {', '.join(linear)}, or write all-linear",
        ) from error
    for parameter in inner.parameters():
        # Small steps vanish in 16 bits, so what is trained is kept in 32.
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    return inner


def _freeze(causal: Any, recipe: Recipe) -> None:
    assert isinstance(recipe.adapter, NoAdapter)
    freeze = recipe.adapter.freeze
    layers = getattr(causal, causal.base_model_prefix).layers
    frozen = freeze.frozen_layers()
    if beyond := {number for number in frozen if number >= len(layers)}:
        raise InputError(
            f"adapter.freeze.layers names layer {min(beyond)}, but the base has layers 0 to {len(layers) - 1}",
            fix=f"write at most 0-{len(layers) - 1}",
        )
    for number in frozen:
        layers[number].requires_grad_(False)
    if freeze.embeddings:
        causal.get_input_embeddings().requires_grad_(False)


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and value of everything that is trained, in a fixed order, shared weights once."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
