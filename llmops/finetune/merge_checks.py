"""What a merged model must be before it may appear: each check passes in silence or names what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmops.errors import LlmopsError
from llmops.finetune.probes import Distance, logits

TOLERANCE = {"fp32": 1e-7, "fp16": 3e-5, "bf16": 2e-3}
"""Largest mean KL(adapter ‖ merged) in nats per token.

Measured on a Llama of 6 layers trained on E2E and GSM8K, adapters of 1 to 100 updates, all weights rounded:
fp32 3e-13, fp16 6e-8, bf16 4e-6, whatever the size of the update; 64 apart, as the square of the rounding step
predicts. The limits leave room for the 500-fold of it in models that are deeper and surer of themselves.
A wrong scale or a forgotten layer costs about as much as the adapter is worth, and `EFFECT_LOST` finds it.
"""
EFFECT_LOST = 0.5
"""Largest share of the adapter's effect on the logits that rounding to the dtype may take."""


def near_tie(dtype: str) -> float:
    """The widest lead, in nats, that a likeliest token may lose to rounding: five standard deviations of the log
    odds that a mean KL at the limit means (KL is half their variance)."""
    return float(5 * (2 * TOLERANCE[dtype]) ** 0.5)


class MergeFault(LlmopsError):
    """The merged model is not what the adapter and its base are together; nothing was written."""


@dataclass(frozen=True, slots=True)
class Changes:
    tensors: int
    largest: float
    unchanged: tuple[str, ...]


def check_names(merged: set[str], base: set[str]) -> None:
    if odd := sorted(merged ^ base):
        raise MergeFault(
            f"the merged model has other tensors than its base, first {odd[0]}",
            fix="the installed peft does not merge this architecture; serve the adapter beside its base",
        )


def check_changed(changes: Changes, kl: float, name: str) -> None:
    wider = "merge with --dtype fp32" if name != "fp32" else "train longer or with a larger learning rate"
    if changes.unchanged:
        more = f" and {len(changes.unchanged) - 1} more" if len(changes.unchanged) > 1 else ""
        raise MergeFault(
            f"the adapter is not zero, yet after merging {changes.unchanged[0]}{more} equals the base in {name}",
            fix=f"the update is smaller than {name} can hold: {wider}",
        )
    if not changes.tensors or not kl > 0:
        raise MergeFault(
            f"the merged model cannot be told from its base: {changes.tensors} tensors changed, KL {kl:.1e}",
            fix=f"the adapter does next to nothing: {wider}",
        )


def check_same(found: Distance, lost: float, name: str) -> None:
    wider = "merge with --dtype fp32, or serve the adapter beside its base" if name != "fp32" else "report this"
    if not found.kl <= TOLERANCE[name]:
        raise MergeFault(
            f"merged and adapter differ: KL {found.kl:.1e} nats per token, where {name} explains {TOLERANCE[name]:.0e}",
            fix=wider,
        )
    if not found.widest_gap <= near_tie(name):
        raise MergeFault(
            f"merged and adapter choose different tokens where the adapter leads by {found.widest_gap:.2f} nats; "
            f"{name} explains {near_tie(name):.1g}",
            fix=wider,
        )
    if not lost <= EFFECT_LOST:
        raise MergeFault(
            f"rounding to {name} takes {lost:.0%} of the adapter's effect, at most {EFFECT_LOST:.0%} is allowed",
            fix=wider,
        )


def check_reload(folder: Path, ids: Tensor, expected: Tensor) -> None:
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True, use_safetensors=True)
    found = logits(again, ids)
    if not torch.equal(found, expected):
        widest = float((found.float() - expected.float()).abs().max())
        raise MergeFault(
            f"the written model gives other logits than the one in memory, by up to {widest:.1e}",
            fix="the installed transformers does not write this architecture faithfully; try another version",
        )
