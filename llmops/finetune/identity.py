"""Who a run is: everything that must be equal for two runs to be the same run, and the digest over it."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from llmops.files import digest_of
from llmops.finetune.recipe import Recipe

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes", "liger-kernel", "flash-attn")
"""Those whose code computes weights."""


def environment() -> dict[str, str]:
    """Versions of everything whose code computes weights."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def identity(
    recipe: Recipe,
    *,
    dataset: str,
    tokens: str,
    template: str | None,
    base: str,
    base_revision: str | None,
    world: int,
    threads: int,
    kernels: Mapping[str, Any],
) -> dict[str, Any]:
    """The parts of a run's identity; all but `recipe` are digests or plain values.

    `recipe` is resolved: every default is filled in. Thread and process counts are part of
    it, since another order of summation gives other weights.
    """
    return {
        "recipe": recipe.model_dump(mode="json"),
        "dataset": dataset,
        "tokens": tokens,
        "template": template,
        "base": base,
        "base_revision": base_revision,
        "world": world,
        "kernels": dict(kernels),
        "environment": environment(),
        "threads": threads,
    }


def run_digest(parts: Mapping[str, Any]) -> str:
    """sha256 (hex) over the canonical JSON of an identity."""
    return digest_of(parts)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every leaf in which two identities differ, as `key: here → there`."""
    for key in sorted({*one, *other}):
        path = f"{prefix}{key}"
        left, right = one.get(key), other.get(key)
        if left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            yield from differences(left, right, f"{path}.")
        else:
            yield f"{path}: {_short(left)} → {_short(right)}"


def _short(value: Any) -> str:
    """A digest by its beginning; other long values by both ends, since paths differ at theirs."""
    text = str(value)
    if re.fullmatch(r"[0-9a-f]{40,}", text):
        return f"{text[:12]}…"
    return text if len(text) <= 100 else f"{text[:30]}…{text[-60:]}"
