"""`method: {kind: grpo}` is a run as any other: rewarded by our scorers, recorded, judged and registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmops.finetune.recipe import Recipe
from llmops.lifecycle.loop import Result
from tests.lifecycle.sites import Heard, Site

UPDATES = 4


def a_recipe(site: Site, base: Path, **method: Any) -> Recipe:
    rows = {"source": "builtin:festivals/train", "take": 60, "prompt": "{prompt}", "completion": "{completion}"}
    settings: dict[str, Any] = {
        "kind": "grpo",
        "rewards": [{"scorer": {"rouge": {"variants": ["rougeL"]}}}],
        "generations": 4,
        "max_tokens": 32,
        **method,
    }
    return site.recipe(
        base=str(base),
        data={"train": [rows], "validation": 0.1},
        method=settings,
        adapter={"kind": "lora", "rank": 8},
        batch={"sequences": 16, "per_device": 8, "max_length": 160},
        optimizer={"learning_rate": 2e-3},
        schedule={"steps": UPDATES},
        checkpoints={},
    )


@dataclass(frozen=True)
class Ended:
    site: Site
    recipe: Recipe
    result: Result
    heard: Heard


@pytest.fixture(scope="module")
def ended(make_site: Callable[[Path], Site], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    site = make_site(tmp_path_factory.mktemp("grpo"))
    recipe = a_recipe(site, tiny_base)
    heard = Heard()
    return Ended(site, recipe, site.run(recipe, heard=heard), heard)


def test_every_update_tells_its_reward(ended: Ended) -> None:
    steps = ended.heard.steps
    assert [step.index for step in steps] == list(range(1, UPDATES + 1))
    assert ended.heard.totals == {UPDATES}
    for step in steps:
        assert 0 < step.measures["reward"] < 1
        assert step.measures["answer_tokens"] <= 32
        assert step.tokens > step.trained_tokens > 0
    print([step.measures for step in steps])


def test_it_is_registered_with_the_reward_on_held_out_prompts(ended: Ended) -> None:
    manifest = ended.result.finished.manifest
    assert manifest.kind == "adapter"
    assert manifest.steps == UPDATES
    assert set(manifest.validation_measures) == {"reward", "reward_before"}
    assert ended.result.version is not None
    assert ended.result.reports
