"""The process that quantizes: reads a job from a file, writes progress and what it took to a pipe.

Run as `python -m llmops.quantize.process JOB PIPE`. The libraries warn and keep memory as they like; all of that ends
with the process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmops.libraries import quieten
from llmops.processes import end_with_parent, peak_resident

Say = Callable[[Mapping[str, Any]], None]


def main() -> None:
    end_with_parent()
    quieten()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8", buffering=1) as pipe:

        def say(what: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(what) + "\n")

        make = _by_bitsandbytes if job["format"] == "bitsandbytes" else _by_auto_round
        folder = make(job, say)
        say({"folder": str(folder), "peak_bytes": _peak_bytes()})


def _by_auto_round(job: Mapping[str, Any], say: Say) -> Path:
    """Weights rounded so that each decoder layer's outputs on the rows change least, or to the nearest."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    torch.use_deterministic_algorithms(True, warn_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype="auto", local_files_only=True, use_safetensors=True
    )
    model.generation_config = GenerationConfig()  # some published ones do not pass their library's check on saving
    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True)
    _hear_layers(say, model.config.get_text_config().num_hidden_layers)
    rows = _padded(job["rows"], tokenizer.pad_token_id)
    settings: dict[str, Any] = {} if job["iters"] else {"disable_opt_rtn": True}  # else it is not just the nearest
    maker = AutoRound(
        model=model,
        tokenizer=tokenizer,
        scheme=job["preset"],
        iters=job["iters"],
        dataset=rows,
        nsamples=max(1, len(rows)),
        seqlen=int(rows[0]["input_ids"].shape[1]) if rows else 32,
        batch_size=min(8, max(1, len(rows))),
        seed=job["seed"],
        device_map="cuda:0" if torch.cuda.is_available() else "cpu",
        enable_torch_compile=False,
        low_cpu_mem_usage=False,
        **settings,
    )
    _, folders = maker.quantize_and_save(output_dir=job["out"], format=job["format"])
    return Path(folders[0] if isinstance(folders, list) else folders)


def _by_bitsandbytes(job: Mapping[str, Any], say: Say) -> Path:
    """As QLoRA's base: nf4 with its scales quantized too (Dettmers et al. 2023)."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        job["model"],
        quantization_config=settings,
        dtype="auto",
        device_map={"": "cuda:0" if torch.cuda.is_available() else "cpu"},
        local_files_only=True,
        use_safetensors=True,
    )
    model.generation_config = GenerationConfig()  # as above
    layers = model.config.get_text_config().num_hidden_layers
    say({"layers": layers, "of": layers})
    model.save_pretrained(job["out"])
    return Path(job["out"])


def _padded(rows: list[list[int]], pad: int | None) -> list[dict[str, Any]]:
    """Every row as a batch of one, all of the longest's length: AutoRound takes rows of one length.

    What is added is masked in attention, and left out of what the tuning looks at: AutoRound knows it by the pad
    token or, without one, by the last token's repetition.
    """
    import torch

    longest = max((len(row) for row in rows), default=0)
    return [
        {
            "input_ids": torch.tensor([row + [row[-1] if pad is None else pad] * (longest - len(row))]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row))]),
        }
        for row in rows
    ]


def _hear_layers(say: Say, layers: int) -> None:
    """Tell of every decoder layer that AutoRound says it is done with."""
    done = 0

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal done
            if "layers in the block" in record.getMessage():
                done += 1
                say({"layers": min(done, layers), "of": layers})

    logging.getLogger("autoround").addHandler(Hearing(logging.INFO))


def _peak_bytes() -> int:
    """Of GPU memory where there is one, else resident memory of this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return peak_resident()


if __name__ == "__main__":
    main()
