"""What a model of the registry is for: it writes answers, or as a reward model it gives them numbers."""

from __future__ import annotations

from llmops.records import RunManifest

REWARD_MODEL = "reward model, "
"""What the description of such a version begins with."""


def scores(manifest: RunManifest) -> bool:
    """Whether it is a reward model, by the recipe it was trained by; its `kind` is that of any other artifact."""
    return (manifest.recipe.get("method") or {}).get("kind") == "reward"


def task_of(manifest: RunManifest) -> str:
    """As the hub names it; reward models stand under classification there, of one label."""
    return "text-classification" if scores(manifest) else "text-generation"
