"""One side of the training benchmark, in a process of its own: `python -m tests.benchmarks.sft_speed SIDE FOLDER`.

Prints a JSON line: tokens per second and trained tokens per second over the updates after
the warm-up, and the peak resident memory of the process.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP = 5
SEQUENCES = 32
MAX_LENGTH = 256
RATE = 2e-3


def rows(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def ours(folder: Path, *, packing: bool) -> dict[str, float]:
    import torch
    from transformers import AutoTokenizer

    from llmops.finetune.attention import choose
    from llmops.finetune.model import Placement
    from llmops.finetune.parallel import Processes
    from llmops.finetune.recipe import Recipe
    from llmops.finetune.tokens import encode
    from llmops.finetune.train import Trainer
    from llmops.records import Row, Step

    base = folder / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = [
        Row(
            str(number),
            "messages",
            {
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["completion"]},
                ]
            },
            "rows.jsonl",
            number + 1,
        )
        for number, row in enumerate(rows(folder))
    ]
    work = Path(tempfile.mkdtemp(dir=folder))
    store, _, _ = encode(found, tokenizer, max_length=MAX_LENGTH, path=work / "train.safetensors")
    recipe = Recipe.model_validate(
        {
            "name": "speed",
            "base": "base",
            "data": {"train": [{"source": "rows.jsonl", "prompt": "{prompt}", "completion": "{completion}"}]},
            "batch": {
                "sequences": SEQUENCES,
                "per_device": SEQUENCES,
                "max_length": MAX_LENGTH,
                "packing": packing,
            },
            "optimizer": {"learning_rate": RATE},
            "schedule": {"epochs": 1} if not packing else {"epochs": 4},
            "checkpoints": {"every": 10_000},
            "precision": "bf16",
        }
    )
    steps: list[Step] = []
    device = torch.device("cpu")
    attention, _ = choose(
        "auto",
        device=device,
        packing=packing,
        model_config=json_config(base),
        max_length=MAX_LENGTH,
        precision="bf16",
    )
    Trainer(
        recipe,
        base=base,
        train=store,
        validation=None,
        checkpoints=work / "checkpoints",
        placement=Placement(device, attention, liger=False),
        processes=Processes(0, 1, device),
        pad_id=int(tokenizer.pad_token_id),
        on_step=steps.append,
    ).run()
    counted = steps[WARM_UP:]
    seconds = sum(step.seconds for step in counted)
    return {
        "tokens_per_s": sum(step.tokens for step in counted) / seconds,
        "trained_per_s": sum(step.trained_tokens for step in counted) / seconds,
        "loss": steps[-1].loss,
    }


def json_config(base: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base)


def trl(folder: Path) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in rows(folder)
        ]
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=data,
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=SEQUENCES,
            num_train_epochs=1,
            max_length=MAX_LENGTH,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=True,
            completion_only_loss=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            gradient_checkpointing=False,
            seed=0,
        ),
    )
    tokens: list[int] = []
    trained: list[int] = []
    times: list[float] = []
    collate = trainer.data_collator

    def counting(features: Any) -> Any:
        batch = collate(features)
        tokens.append(int(batch["attention_mask"].sum()))
        trained.append(int((batch["labels"] != -100).sum()))
        return batch

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times[-1] += time.perf_counter()

    trainer.data_collator = counting
    trainer.add_callback(Clock())
    trainer.train()
    updates = slice(WARM_UP, len(times))
    seconds = sum(times[updates])
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    return {
        "tokens_per_s": sum(tokens[updates]) / seconds,
        "trained_per_s": sum(trained[updates]) / seconds,
        "loss": losses[-1],
    }


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    found = trl(folder) if side == "trl" else ours(folder, packing=side == "packed")
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
