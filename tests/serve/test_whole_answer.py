"""A stream put together is the answer that openai's own client puts together, and the one an engine gives whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from llmops.serve.whole_answer import whole_answer


def sse(chunks: list[Any], *, end: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}{end}{end}" for chunk in chunks]
    return ("".join(lines) + f"data: [DONE]{end}{end}").encode()


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": choices, **more}


def delta(index: int, said: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": said, "finish_reason": finish, **more}


def logprob(token: str) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
TEXTS = [
    chunk([delta(0, {"role": "assistant", "content": ""})]),
    chunk([delta(1, {"role": "assistant", "content": "Zwe"})]),
    chunk([delta(0, {"content": "Grü"}, logprobs=logprob("Grü"))]),
    chunk([delta(0, {"content": "ße\u2028\n"}, logprobs=logprob("ße")), delta(1, {"content": "i"})]),
    chunk([delta(1, {}, "length")]),
    chunk([delta(0, {}, "stop")]),
    chunk([], usage=USAGE),
]
TOOLS = [
    chunk([delta(0, {"role": "assistant", "content": None, "tool_calls": [
        {"index": 0, "id": "t0", "type": "function", "function": {"name": "f", "arguments": ""}}]})]),
    chunk([delta(0, {"tool_calls": [
        {"index": 1, "id": "t1", "type": "function", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": '{"a"'}}]})]),
    chunk([delta(0, {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})]),
    chunk([delta(0, {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]})]),
    chunk([delta(0, {}, "tool_calls")]),
]  # fmt: skip


def known(value: Any) -> Any:
    """Without what is null, and without the numbers of tool calls, of which openai's client leaves some out."""
    if isinstance(value, dict):
        return {key: known(one) for key, one in value.items() if one is not None}
    return [known(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("chunks", [TEXTS, TOOLS], ids=["texts of two choices", "tool calls in pieces"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_chat_is_what_openais_client_makes_of_it(chunks: list[dict[str, Any]], end: str) -> None:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for one in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(one))
    theirs = known(state.current_completion_snapshot.to_dict())
    ours = known(whole_answer(b": ping" + end.encode() * 2 + sse(chunks, end=end)))
    for choice in (*theirs["choices"], *ours["choices"]):
        choice["message"].pop("parsed", None)
        for call in choice["message"].get("tool_calls", []):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
    assert ours["choices"] == theirs["choices"]
    assert (ours["object"], ours.get("usage")) == ("chat.completion", theirs.get("usage"))


@settings(max_examples=30)
@given(st.lists(st.text(max_size=8), max_size=12), st.integers(1, 3))
def test_a_completions_text_is_its_pieces(pieces: list[str], choices: int) -> None:
    chunks = [
        {"object": "text_completion", "choices": [{"index": index, "text": piece, "finish_reason": None}]}
        for piece in pieces
        for index in range(choices)
    ]
    whole = whole_answer(sse(chunks))
    if pieces:
        assert [one["text"] for one in whole["choices"]] == ["".join(pieces)] * choices


def test_an_error_in_mid_stream_and_what_is_no_json_stand_beside_what_came_before() -> None:
    stream = sse(TEXTS[:3])[: -len(b"data: [DONE]\n\n")] + b'data: {"error": {"code": 5}}\n\ndata: nonsense\n\n'
    whole = whole_answer(stream + b'data: {"cut')
    assert whole["choices"][0]["message"]["content"] == "Grü"
    assert whole["choices"][0]["finish_reason"] is None
    assert whole["events"] == [{"error": {"code": 5}}, "nonsense"]


def test_other_dialects_are_kept_as_their_events() -> None:
    stream = b'event: message_start\ndata: {"type": "message_start"}\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    assert whole_answer(stream) == {"events": [{"type": "message_start"}, {"type": "ping"}]}


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_make_a_json_value(stream: bytes) -> None:
    json.dumps(whole_answer(stream))


@given(
    st.lists(
        st.recursive(
            st.none() | st.integers(0, 2) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["choices", "delta", "index", "tool_calls", "content", "text", "logprobs"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
        max_size=4,
    )
)
def test_chunks_of_any_shape_make_a_json_value(choices: list[Any]) -> None:
    json.dumps(whole_answer(sse([chunk([one]) for one in choices] + [chunk(one) for one in choices])))
