"""A run whose files would not fit is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault
from llmops.finetune.disk import check_disk, disk_needed
from llmops.finetune.plan import Plan, make_plan
from llmops.finetune.recipe import Recipe
from llmops.hardware import KNOWN_GPUS, free_disk
from tests.finetune.plans import LLAMA_8B, make_recipe, rows_of

WEIGHTS = LLAMA_8B.parameters.total


def needed(recipe: Recipe) -> int:
    plan: Plan = make_plan(
        recipe, LLAMA_8B, rows_of(1000, 512), world=1, device=KNOWN_GPUS["b200"], price_per_gpu_hour=None
    )
    return disk_needed(plan, recipe, LLAMA_8B)


def test_full_fine_tuning_writes_twelve_bytes_a_weight_and_checkpoint(tmp_path: Path) -> None:
    tokens = 5 * 1000 * 512
    two_artifacts = 2 * 2 * WEIGHTS
    kept = make_recipe(tmp_path, "checkpoints.keep=2", "schedule={epochs: 3}")
    assert needed(kept) == pytest.approx(3 * 12 * WEIGHTS + two_artifacts + tokens, rel=1e-6)
    with_best = make_recipe(tmp_path, "checkpoints.keep=2", "data.validation=0.1")
    assert needed(with_best) == pytest.approx(4 * 12 * WEIGHTS + two_artifacts + tokens, rel=1e-6)
    small_state = make_recipe(tmp_path, "checkpoints.keep=2", "optimizer.name=adamw8bit")
    assert needed(small_state) == pytest.approx(3 * 6 * WEIGHTS + two_artifacts + tokens, rel=1e-6)


def test_an_adapter_writes_little_unless_it_is_merged(tmp_path: Path) -> None:
    adapter = needed(make_recipe(tmp_path, "adapter={kind: lora, rank: 16}"))
    merged = needed(make_recipe(tmp_path, "adapter={kind: lora, rank: 16, merge: true}"))
    assert adapter < 3 << 30
    assert merged - adapter == pytest.approx(2 * 2 * WEIGHTS)


def test_a_full_disk_is_told_with_both_numbers(tmp_path: Path) -> None:
    check_disk(tmp_path / "not-made-yet", 1)
    with pytest.raises(EnvironmentFault, match=r"needs about .* GiB of disk .* are free") as error:
        check_disk(tmp_path, 2 * free_disk(tmp_path) + (1 << 40))
    assert "checkpoints.keep" in error.value.fix
