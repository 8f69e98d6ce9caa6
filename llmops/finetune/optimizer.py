"""The optimizer of a recipe over what is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from llmops.errors import EnvironmentFault
from llmops.finetune.recipe import Optimizer


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with decay, vectors (norms, biases, DoRA magnitudes) without."""
    parameters = [parameter for _, parameter in named]
    groups = [
        {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(settings: Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """AdamW as the recipe says: torch's fused one, or bitsandbytes' with its state in 8 bits."""
    groups = parameter_groups(named, settings.weight_decay)
    common: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.epsilon}
    if settings.name == "adamw":
        adamw = torch.optim.AdamW(groups, fused=True, **common)
        _allocate(adamw)
        return adamw
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise EnvironmentFault(
            "optimizer.name adamw8bit needs bitsandbytes", fix="pip install 'llmops[train]', or use adamw"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, **common)
    return optimizer


def _allocate(optimizer: torch.optim.AdamW) -> None:
    """Make the running means now, as the first step would: memory then runs out at the first update or not at all."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
