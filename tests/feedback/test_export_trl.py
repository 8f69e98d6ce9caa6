"""What is exported loads in TRL's trainers as it stands: one step of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmops.feedback.export import Purpose, export
from llmops.feedback.export_files import write
from tests.feedback.rated_items import LIKERT, PAIRWISE, item, pair, said


def exported(folder: Path, purpose: Purpose, *, file_format: Any = "jsonl") -> Path:
    """An export of a few items of which some have an edit, and one is a tie."""
    edit = [{"position": 1, "text": "written by a person"}]
    if purpose == "sft":
        items = [item(said({"kind": "rating", "scores": [5, 1]}), answers=[f"good {n}", "bad"]) for n in range(6)]
        items.append(item(said({"kind": "rating", "scores": [2, 2]}, edits=edit)))
    else:
        items = [item(said(pair(2)), said(pair(1)), answers=[f"good {n}", f"bad {n}"]) for n in range(6)]
        items += [item(said(pair(-3), edits=edit)), item(said(pair(0)))]
    made, rows = export(
        [rating for one in items for rating in one.ratings], items, purpose, LIKERT if purpose == "sft" else PAIRWISE
    )
    write(folder, made, rows, campaign={"name": "c"}, file_format=file_format)
    return folder / f"train.{file_format}"


@pytest.mark.parametrize("purpose", ["sft", "dpo", "kto", "reward"])
@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_a_trainer_of_trl_takes_a_step_on_it(purpose: Purpose, random_base: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer

    rows = [json.loads(line) for line in exported(tmp_path / "export", purpose).read_text().splitlines()]
    assert len(rows) >= 7
    trainer, arguments = _trainer(purpose)
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 1, "report_to": [],
        "save_strategy": "no", "use_cpu": True, "bf16": False, "disable_tqdm": True, "max_length": 256,
        "gradient_checkpointing": False, "dataloader_pin_memory": False,
    }  # fmt: skip
    made = trainer(
        model=_model(purpose, random_base),
        args=arguments(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(random_base),
    )
    assert made.train().training_loss > 0


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    lines = exported(tmp_path / "lines", "dpo").read_text().splitlines()
    table = read_table(exported(tmp_path / "table", "dpo", file_format="parquet")).to_pylist()
    drop = {"item", "cluster", "ratings", "source", "prompt"}  # made anew for each export here
    assert [{key: value for key, value in row.items() if key not in drop} for row in table] == [
        {key: value for key, value in json.loads(line).items() if key not in drop} for line in lines
    ]


def _trainer(purpose: Purpose) -> tuple[Any, Any]:
    import trl

    name = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward"}[purpose]
    if not hasattr(trl, f"{name}Trainer"):
        import trl.experimental.kto as trl_kto

        return trl_kto.KTOTrainer, trl_kto.KTOConfig
    return getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")


def _model(purpose: Purpose, base: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if purpose == "reward":
        return AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    return AutoModelForCausalLM.from_pretrained(base)
