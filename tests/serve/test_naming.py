"""Requests and answers change their model's name and nothing else."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.naming import Renaming, for_engine, name_in
from llmops.serve.refusal import Refusal

texts = st.text(max_size=12) | st.sampled_from(["model", '"model":"m"', '\\"model\\"', "\u0000", "mod\u0065l"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(texts, values, max_size=5),
    texts.filter(bool),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:  ")]),
    st.booleans(),
)
def test_the_engine_reads_what_was_asked_under_its_own_name(
    fields: dict[str, Any], model: str, first: bool, separators: tuple[str, str], ascii_only: bool
) -> None:
    body = {"model": model, **fields} if first else {**fields, "model": model}
    body["model"] = model
    try:
        raw = json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    try:
        read = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return
    wanted = {"stream_options": {"include_usage": True}}
    assert orjson.loads(for_engine(raw, read, "served")) == {**read, "model": "served"}
    assert orjson.loads(for_engine(raw, read, "served", changes=wanted)) == {**read, "model": "served", **wanted}


def test_numbers_keep_their_spelling() -> None:
    raw = b'{ "seed": 123456789012345678901234567890, "temperature": 1.0e0, "model" : "m" , "x": 1.10 }'
    read = orjson.loads(raw)
    assert for_engine(raw, read, "s") == raw.replace(b'"model" : "m"', b'"model":"s"')
    changed = for_engine(raw, read, "s", changes={"logprobs": True})
    assert changed == raw.replace(b'"model" : "m"', b'"model":"s"').replace(b" }", b' ,"logprobs":true}')


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","model":"n"}',
        b'{"model":"n","mod\\u0065l":"m"}',
        b'{"mod\\u0065l":"m"}',
        b'{"tools":[{"model":"n"}],"model":"m"}',
        b'{"a":"model","model":"m"}',
    ],
)
def test_no_spelling_lets_another_name_through(raw: bytes) -> None:
    sent = for_engine(raw, orjson.loads(raw), "served")
    for reader in (orjson.loads, json.loads):
        assert reader(sent)["model"] == "served"


def test_a_body_too_deep_to_be_written_anew_is_refused() -> None:
    raw = b'{"a":' + b"[" * 500 + b"]" * 500 + b',"model":"m"}'
    body = orjson.loads(raw)
    assert for_engine(raw, body, "s") == raw.replace(b'"m"', b'"s"')
    with pytest.raises(Refusal) as refused:
        for_engine(raw + b" ", {**body, "stream_options": None}, "s", changes={"stream_options": {}})
    assert refused.value.status == 400


@given(texts.filter(bool), texts)
def test_answers_say_the_name_of_the_route(model: str, text: str) -> None:
    try:
        answer = {"id": text, "model": model, "choices": [{"message": {"content": text}}]}
        compact, spaced = (json.dumps(answer, separators=one).encode() for one in ((",", ":"), (", ", ": ")))
        model.encode()
    except UnicodeEncodeError:
        return
    renaming = Renaming(model, "route")
    for raw in (orjson.dumps(answer), compact, spaced):
        changed = renaming.bytes(raw)
        if changed is not None:
            assert orjson.loads(changed) == {**answer, "model": "route"}
        elif model.isascii() and model.isprintable() and "\x7f" not in model:
            raise AssertionError(f"{raw!r} was not renamed")
    assert renaming.value(orjson.loads(compact)) == {**answer, "model": "route"}


def test_the_name_stands_at_the_top_or_in_a_response_or_message() -> None:
    assert name_in({"model": "a"}) == "a"
    assert name_in({"type": "response.created", "response": {"model": "a"}}) == "a"
    assert name_in({"type": "message_start", "message": {"model": "a"}}) == "a"
    assert name_in({"message": "text"}) is name_in([]) is None
