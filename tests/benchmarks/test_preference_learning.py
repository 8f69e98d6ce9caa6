"""`llmops finetune` with `method: {kind: dpo}` on the embedded base: what it prefers on prompts it never trained on.

The base must be pre-trained first, which takes a minute, so this is no part of the ordinary tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import pytest
import yaml

from llmops.builtin.domains import rows
from llmops.stats import wilson

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

PAIRS = 400


def export(path: Path) -> Path:
    """What was asked for against what another prompt asked for, as conversations."""
    found = list(islice(rows("restaurants", "train"), PAIRS + 1))
    with path.open("w") as file:
        for row, other in pairwise(found):
            answers = {"chosen": row["completion"], "rejected": other["completion"]}
            line = {"prompt": [{"role": "user", "content": row["prompt"]}]}
            line |= {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
            file.write(json.dumps(line) + "\n")
    return path


def test_held_out_accuracy_of_a_real_run_is_over_chance(tmp_path: Path) -> None:
    """Wilson's interval of the held-out accuracy at 99.9 % lies above one half."""
    recipe = {
        "name": "preferred",
        "base": "builtin:tiny",
        "data": {
            "train": [
                {
                    "source": str(export(tmp_path / "pairs.jsonl")),
                    "prompt": "{prompt}",
                    "chosen": "{chosen}",
                    "rejected": "{rejected}",
                }
            ],
            "validation": 0.25,
        },
        "method": {"kind": "dpo"},
        "adapter": {"kind": "lora", "rank": 8},
        "batch": {"sequences": 16, "per_device": 16, "max_length": 160},
        "optimizer": {"learning_rate": 1.0e-3},
        "schedule": {"epochs": 1},
        "precision": "fp32",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "llmops.cli.main", "finetune", "recipe.yaml", "--out", "run"]
    environment = {**os.environ, "LLMOPS_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n{done.stderr[-1500:]}\n{done.stdout}")
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())["validation_measures"]
    (version,) = (tmp_path / "home" / "objects").glob("dataset-*")
    held_out = json.loads((version / "version.json").read_text())["rows"]["validation"]
    low, _ = wilson(told["accuracy"] * held_out, held_out, 0.999)
    assert low > 0.5
    assert f"accuracy {told['accuracy']:.4f}" in " ".join(done.stdout.split())
