"""How the arithmetic of a run is done on this machine: which attention, and whether fused kernels."""

from __future__ import annotations

from dataclasses import dataclass

from llmops.finetune.method import Grpo
from llmops.finetune.recipe import Recipe, attention_asked
from llmops.records import ModelSource


@dataclass(frozen=True, slots=True)
class Kernels:
    """How the arithmetic will be done here, each choice with its reason."""

    attention: str
    liger: bool
    device: str
    reasons: tuple[str, ...]


def choose_kernels(recipe: Recipe, base: ModelSource, *, world: int) -> Kernels:
    """The fastest arithmetic that this machine and model have for each of `world` processes, unless the recipe says
    which."""
    import torch
    from transformers import AutoConfig

    from llmops.finetune.attention import choose
    from llmops.finetune.launch import threads_for
    from llmops.finetune.parallel import this_device

    device = this_device()
    config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
    attention, why = choose(
        attention_asked(recipe),
        device=device,
        packing=recipe.batch.packing,
        model_config=config,
        max_length=recipe.batch.max_length,
        precision=recipe.precision,
    )
    liger, liger_why = _liger(recipe, device.type, str(config.model_type))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads_for(world)} threads"
    reasons = [f"device: {where}", f"attention: {why}", f"liger: {liger_why}"]
    if isinstance(recipe.method, Grpo):
        from llmops.finetune.grpo import answers_with

        reasons.append(f"answers while training: {answers_with(recipe.method, device.type)[1]}")
    return Kernels(attention, liger, where, tuple(reasons))


def _liger(recipe: Recipe, device: str, model_type: str) -> tuple[bool, str]:
    from importlib.util import find_spec

    if recipe.kernels.liger == "off":
        return False, "off, as the recipe says"
    if device != "cuda":
        return False, "off: its kernels run on CUDA only"
    if find_spec("liger_kernel") is None:
        return False, "off: not installed (pip install 'llmops[cuda]')"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False, f"off: it has no kernels for {model_type}"
    return True, f"on: fused norms, rotary embeddings and SwiGLU for {model_type}"
