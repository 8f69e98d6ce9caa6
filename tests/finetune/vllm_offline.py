"""vLLM without a server: several whole models, one after the other in one process, asked the same prompts.

Run as a script it is that process: `python vllm_offline.py QUESTIONS ANSWERS`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """Greedy tokens after a prompt with their log-probabilities, and the prompt's own distributions.

    Attributes:
        distributions: `(len(prompt) - 1, vocabulary)` log-probabilities of every token after every beginning.
    """

    tokens: list[int]
    logprobs: list[float]
    distributions: Tensor


def complete(
    models: Mapping[str, Path],
    prompts: Sequence[Sequence[int]],
    folder: Path,
    *,
    seconds: float = 450,
) -> dict[str, list[Completion]]:
    """What each of `models` (name → folder) makes of `prompts`, in their order; at most 24 tokens each."""
    # The process itself imports nothing of the tests.
    from tests.finetune.vllm_server import environment

    asked, answered = folder / "questions.json", folder / "answers.json"
    asked.write_text(json.dumps({"models": {k: str(v) for k, v in models.items()}, "prompts": prompts}))
    # -P: the folder of this script is no place to import from.
    command = [sys.executable, "-P", __file__, str(asked), str(answered)]
    with (folder / "offline.log").open("wb") as output, TemporaryDirectory(prefix="vllm-") as temporary:
        done = subprocess.run(
            command,
            env=environment(temporary),
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    log = (folder / "offline.log").read_text(errors="replace")
    assert done.returncode == 0, "\n".join(log.splitlines()[-60:])
    return {name: [_read(one) for one in given] for name, given in json.loads(answered.read_text()).items()}


def _read(one: Any) -> Completion:
    return Completion(one["tokens"], one["logprobs"], torch.tensor(one["distributions"]))


def _row(held: Mapping[int, Any]) -> list[float]:
    return [held[token].logprob for token in range(len(held))]


def main() -> None:
    """Answer the file of questions."""
    from vllm import LLM, SamplingParams, TokensPrompt

    asked = json.loads(Path(sys.argv[1]).read_text())
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]]
    sampling = SamplingParams(temperature=0, max_tokens=24, logprobs=0, prompt_logprobs=-1)
    answers = {}
    for name, folder in asked["models"].items():
        model = LLM(
            model=folder,
            dtype="float32",
            enforce_eager=True,
            max_model_len=256,
            max_num_seqs=4,
            num_gpu_blocks_override=64,
            max_logprobs=-1,
            seed=0,
        )
        answers[name] = [
            {
                "tokens": list(done.outputs[0].token_ids),
                "logprobs": [
                    row[token].logprob
                    for token, row in zip(done.outputs[0].token_ids, done.outputs[0].logprobs, strict=True)
                ],
                "distributions": [_row(row) for row in done.prompt_logprobs[1:]],
            }
            for done in model.generate(prompts, sampling, use_tqdm=False)
        ]
        model.llm_engine.engine_core.shutdown()
        del model
        gc.collect()
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
