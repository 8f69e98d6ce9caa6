"""vLLM on this machine answers the requests of a batch, each as it asks, as transformers would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmops.events import Silent
from llmops.lifecycle.batch import batch
from llmops.lifecycle.batch_input import Form, Request
from llmops.lifecycle.batch_vllm import Here
from llmops.records import ModelSource
from tests.eval.lively_models import small_llama
from tests.lifecycle.test_batch import lines, openai_row, written
from tests.real_vllm import with_vllm


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({}, None),
        ({"n": 1, "user": "me", "stream": False, "tools": None}, None),
        ({"temperature": 0, "top_p": 0.5, "seed": 3, "stop": "END", "max_tokens": 3}, None),
        ({"tools": []}, "body.tools"),
        ({"n": 2}, "body.n"),
        ({"temperature": 3}, "body.temperature"),
        ({"temperature": True}, "body.temperature"),
        ({"max_tokens": 0}, "body.max_tokens"),
        ({"stop": [""]}, "body.stop"),
        ({"seed": 1.5}, "body.seed"),
    ],
)
def test_what_needs_a_server_is_refused_before_a_model_is_loaded(asked: dict[str, Any], problem: str | None) -> None:
    here = Here(ModelSource("m", Path(), None, "d"), None, None)
    said = here.allowed(Request(0, "a", "/v1/chat/completions", body(**asked)))
    assert (said is None) if problem is None else (said or "").startswith(f"{problem}:")
    assert "--endpoint" in (here.allowed(Request(0, "a", "/v1/embeddings", {"input": "x"})) or "")


@with_vllm
def test_each_request_is_answered_as_it_asks_as_transformers_would(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = small_llama(tmp_path / "model")
    greedy = [
        openai_row(f"id-{number}", "hello " * (1 + number % 5), temperature=0, max_tokens=4 + number)
        for number in range(10)
    ]
    drawn = [
        openai_row(f"drawn-{seed}-{again}", "hello", seed=seed, max_tokens=12) for seed in (1, 2) for again in "ab"
    ]
    long = openai_row("long", "hello " * 300)
    plain = {"custom_id": "plain", "url": "/v1/completions", "body": {"prompt": "hello", "max_tokens": 3}}
    source = written(tmp_path / "in.jsonl", [*greedy, long, plain, *drawn])
    done = batch(
        source,
        tmp_path / "out.jsonl",
        Form("m"),
        Here(ModelSource("m", folder, None, "d"), None, 100),
        listener=Silent(),
    )
    out = {line["custom_id"]: line for line in lines(tmp_path / "out.jsonl")}
    assert [*out] == [row["custom_id"] for row in [*greedy, long, plain, *drawn]]
    assert done.failed == 1
    assert out["long"]["error"]["code"] == "context_length_exceeded"

    model, tokenizer = AutoModelForCausalLM.from_pretrained(str(folder)), AutoTokenizer.from_pretrained(str(folder))
    same = 0
    for row in greedy:
        answered = out[row["custom_id"]]["response"]["body"]
        ids = tokenizer.apply_chat_template(
            row["body"]["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            made = model.generate(**ids, do_sample=False, max_new_tokens=row["body"]["max_tokens"])
        new = made[0, ids["input_ids"].shape[1] :]
        text = tokenizer.decode(new, skip_special_tokens=True)
        assert answered["usage"]["prompt_tokens"] == ids["input_ids"].shape[1]
        same += (answered["choices"][0]["message"]["content"], answered["usage"]["completion_tokens"]) == (
            text,
            len(new),
        )
    # In 16 bits two tokens may be as likely, and then either may come.
    assert same >= 7
    said = {name: out[name]["response"]["body"]["choices"][0] for name in out if out[name]["error"] is None}
    assert said["drawn-1-a"] == said["drawn-1-b"] != said["drawn-2-a"] == said["drawn-2-b"]
    assert said["plain"].keys() == {"index", "text", "logprobs", "finish_reason"}
