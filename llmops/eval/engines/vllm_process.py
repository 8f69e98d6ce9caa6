"""The process that holds a vLLM engine: reads a job from a file, writes each result to a pipe as it is done.

Run as `python -m llmops.eval.engines.vllm_process JOB PIPE`. It knows token ids alone, no text and no template.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops.processes import end_with_parent


def main() -> None:
    end_with_parent()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8", buffering=1) as pipe:
        engine = _engine(job)
        # The clock is the machine's, so that no answer takes longer than all of them, however late this is read.
        pipe.write(json.dumps({"ready": time.monotonic()}) + "\n")
        for said in _readings(engine, job) if "others" in job else _answers(engine, job):
            pipe.write(json.dumps(said) + "\n")
        engine.engine_core.shutdown()


def _engine(job: Mapping[str, Any]) -> Any:
    """The engine with the model, and room for its adapter where there is one."""
    import torch
    from vllm import LLM

    settings: dict[str, Any] = {}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        settings["gpu_memory_utilization"] = round(0.9 * free / total, 3)  # others may use the GPU too
    else:
        settings["enforce_eager"] = True  # compiling for a CPU takes longer than most suites
    if "others" in job:
        # The prefixes of one passage share all but their last tokens.
        settings |= {"max_logprobs": job["others"], "enable_prefix_caching": True}
    if job["lora_rank"]:
        settings |= {"enable_lora": True, "max_lora_rank": job["lora_rank"], "max_loras": 1}
    return LLM(
        model=job["model"],
        tokenizer=job["tokenizer"],
        dtype=job["dtype"],
        max_model_len=job["length"],
        max_num_seqs=job["rows"],
        # What the model brings along (penalties, top-k) is not what the suite states.
        generation_config="vllm",
        seed=0,
        **settings,
    ).llm_engine


def _answers(engine: Any, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Answers in the order they end."""
    from vllm import SamplingParams

    def sampling(request: Mapping[str, Any]) -> Any:
        # What a request says of itself stands before what the job says of all.
        stop = request.get("stop", job.get("stop"))
        return SamplingParams(
            temperature=request.get("temperature", job.get("temperature")),
            top_p=request.get("top_p", 1.0),
            seed=request["seed"],
            max_tokens=request["allowed"],
            stop=stop,
            stop_token_ids=job["closing"],
            detokenize=bool(stop),
            logprobs=0 if job.get("logprobs") else None,  # 0: of the token that was written, and no others
        )

    for done, seconds in _done(engine, job, sampling):
        (written,) = done.outputs
        yield {
            "item": done.request_id,
            "tokens": list(written.token_ids),
            "finish": "length" if written.finish_reason == "length" else "stop",
            "seconds": seconds,
            "logprobs": None
            if written.logprobs is None
            else [at[token].logprob for at, token in zip(written.logprobs, written.token_ids, strict=True)],
        }


def _readings(engine: Any, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """For each request the likeliest next tokens with their log-probabilities, the likeliest first.

    A token is foretold by the sampler of the token after its prefix, as when it is served: log-probabilities of a
    prompt fail with an adapter (vLLM 0.32), and need memory for all of it at once.
    """
    from vllm import SamplingParams

    def sampling(_: Mapping[str, Any]) -> Any:
        return SamplingParams(temperature=0.0, max_tokens=1, logprobs=job["others"], detokenize=False)

    for done, _ in _done(engine, job, sampling):
        (written,) = done.outputs
        ranked = sorted(written.logprobs[0].items(), key=lambda entry: entry[1].rank)[: job["others"]]
        yield {"item": done.request_id, "ids": [token for token, _ in ranked], "at": [one.logprob for _, one in ranked]}


def _done(
    engine: Any, job: Mapping[str, Any], sampling: Callable[[Mapping[str, Any]], Any]
) -> Iterator[tuple[Any, float]]:
    """Requests as they end, with their seconds; as many are under way as the engine takes, so times hold no queue."""
    from vllm import TokensPrompt
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("adapter", 1, job["adapter"]) if job["adapter"] else None
    # A job without requests of its own gets them by standard input, a line each, as it takes them.
    waiting = iter(job["requests"]) if "requests" in job else map(json.loads, sys.stdin)
    started: dict[str, float] = {}

    def send() -> None:
        for request in waiting:
            started[request["id"]] = time.monotonic()
            prompt = TokensPrompt(prompt_token_ids=request["prompt"])
            engine.add_request(request["id"], prompt, sampling(request), lora_request=adapter)
            if len(started) >= job["rows"]:
                return

    send()
    while started:
        for done in engine.step():
            if done.finished:
                yield done, time.monotonic() - started.pop(done.request_id)
        if len(started) < job["rows"]:
            send()


if __name__ == "__main__":
    main()
