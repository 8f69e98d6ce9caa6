"""A batch through vLLM on this machine: the requests that need no server, answered as one would answer them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmops.data.chat import TemplateRefused, encode_prompt, encode_text
from llmops.errors import InputError
from llmops.eval.engines.vllm import KnownModel, closing_tokens, known_model, run_job
from llmops.events import Listener
from llmops.lifecycle.batch import Outcome
from llmops.lifecycle.batch_input import CHAT, COMPLETIONS, Request
from llmops.records import ModelSource

_TAKEN = {"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}
_NOTHING = {"n": 1, "stream": False, "user": ..., "metadata": ..., "store": ...}
"""Keys that change nothing with these values; `...` is any value."""


class Here:
    """The model in a folder, and for an adapter its base."""

    def __init__(self, source: ModelSource, base: ModelSource | None, max_length: int | None) -> None:
        self._source = source
        self._base = base
        self._max_length = max_length
        self.identity: Mapping[str, Any] = {
            "through": "vLLM",
            "digest": source.digest,
            "base": base.digest if base else None,
            "max_length": max_length,
        }

    def allowed(self, request: Request) -> str | None:
        if request.path not in (CHAT, COMPLETIONS):
            return f"url: {request.path} needs a server; name one with --endpoint"
        body = request.body
        for name in body.keys() - _TAKEN:
            if body[name] is not None and _NOTHING.get(name) not in (body[name], ...):
                return f"body.{name}: it needs a server; name one with --endpoint, or leave it out"
        if request.path == COMPLETIONS and not isinstance(body.get("prompt"), str):
            return "body.prompt: a text is needed; a server (--endpoint) may take more"
        if request.path == CHAT and not isinstance(body.get("messages"), list):
            return "body.messages: a list of turns is needed"
        return _out_of_range(body)

    def __call__(self, requests: Iterator[Request], keep: Callable[[Outcome], None], listener: Listener) -> None:
        """As `Asker`.

        Raises:
            InputError, EnvironmentFault: vLLM cannot load the model, or is missing.
        """
        model = known_model(self._source.folder, self._base.folder if self._base else None, None, listener)
        length = min(filter(None, (model.context, self._max_length)), default=None)
        if length is None:
            raise InputError(
                "the model does not say how many tokens it takes", fix="say how many to make room for: --max-length"
            )
        closing = closing_tokens(model.whole, model.config, model.tokenizer)
        under_way: dict[str, tuple[Request, int, list[str]]] = {}

        def asked() -> Iterator[dict[str, Any]]:
            for request in requests:
                found = _ids(model, request)
                if isinstance(found, str):
                    keep(_refused(request, "invalid_request_error", found))
                elif len(found) >= length:
                    said = f"the prompt has {len(found)} tokens and there is room for {length} with the answer"
                    keep(_refused(request, "context_length_exceeded", said))
                else:
                    job = _job(request, found, length)
                    under_way[job["id"]] = request, len(found), job["stop"]
                    yield job

        def hear(said: dict[str, Any]) -> None:
            request, prompt, stop = under_way.pop(said["item"])
            keep(Outcome(request, 200, _body(model, request, said, prompt, stop, closing)))

        job = model.job | {"length": length, "closing": sorted(closing)}
        run_job(job, hear, on_gpu=model.on_gpu, listener=listener, requests=asked())


def _out_of_range(body: Mapping[str, Any]) -> str | None:
    def number(name: str, low: float, high: float, whole: bool = False) -> str | None:
        value = body.get(name)
        kinds = int if whole else (int, float)
        if value is None or (isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high):
            return None
        return f"body.{name}: {value!r} is not {'a whole number' if whole else 'a number'} from {low:g} to {high:g}"

    stop = body.get("stop")
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        return "body.stop: texts are needed"
    return (
        number("temperature", 0, 2)
        or number("top_p", 1e-6, 1)
        or number("seed", -(2**63), 2**63 - 1, whole=True)
        or number("max_tokens", 1, 2**31, whole=True)
        or number("max_completion_tokens", 1, 2**31, whole=True)
    )


def _ids(model: KnownModel, request: Request) -> list[int] | str:
    """What the model is asked, or why it cannot be."""
    if request.path == COMPLETIONS:
        return encode_text(model.tokenizer, request.body["prompt"])
    try:
        return encode_prompt(model.tokenizer, request.body["messages"])
    except TemplateRefused as refused:
        return refused.problem


def _job(request: Request, ids: list[int], length: int) -> dict[str, Any]:
    body = request.body
    wanted = body.get("max_completion_tokens") or body.get("max_tokens") or length
    stop = body.get("stop") or []
    # As OpenAI's interface has them where they are left out.
    temperature, top_p = (1.0 if body.get(name) is None else body[name] for name in ("temperature", "top_p"))
    return {
        "id": str(request.row),
        "prompt": ids,
        "allowed": min(wanted, length - len(ids)),
        "temperature": temperature,
        "top_p": top_p,
        "seed": body.get("seed"),
        "stop": [stop] if isinstance(stop, str) else stop,
    }


def _body(
    model: KnownModel, request: Request, said: Mapping[str, Any], prompt: int, stop: list[str], closing: set[int]
) -> dict[str, Any]:
    """What a server would answer."""
    tokens = said["tokens"]
    # The token that ended it need not be a special one to be no part of the text.
    text = model.tokenizer.decode(tokens[: -1 if tokens and tokens[-1] in closing else None], skip_special_tokens=True)
    for end in stop:
        text = text.partition(end)[0]
    chat = request.path == CHAT
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{request.row}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": request.body["model"],
        "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": said["finish"]}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": len(tokens),
            "total_tokens": prompt + len(tokens),
        },
    }


def _refused(request: Request, code: str, said: str) -> Outcome:
    error = {"code": code, "message": said}
    return Outcome(request, 400, {"error": {**error, "type": "invalid_request_error", "param": None}}, error)
