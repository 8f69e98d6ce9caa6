"""A streamed answer reaches the client in good order: one end for each choice, usage as asked, no silent cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.events import Events, data_of
from llmops.serve.streams import Cut, Stream, error_event
from llmops.serve.usage import Usage
from tests.serve.fake_engine import chunks_of, event, usage

DONE = event(b"[DONE]")
ASKED = {"model": "served", "stream_options": {"include_usage": True}}


def sent(*values: Any, done: bool = True) -> bytes:
    return b"".join(event(one) for one in values) + (DONE if done else b"")


def got(data: bytes) -> list[Any]:
    """The data of each event that went out; every event must be well formed."""
    assert data.endswith(b"\n\n") or not data
    made = []
    for one in Events().feed(data):
        said = data_of(one)
        if said is not None:
            made.append("[DONE]" if said == b"[DONE]" else json.loads(said))
    return made


def through(stream: Stream, *parts: bytes) -> list[Any]:
    return got(b"".join(stream.feed(part) for part in parts) + stream.end())


def test_all_is_passed_on_under_the_name_of_the_route() -> None:
    made = through(Stream(route="m"), sent(*chunks_of(ASKED, ["a", "b"])))
    assert made[-1] == "[DONE]"
    assert {one["model"] for one in made[:-1]} == {"m"}
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in made[:-1]) == "ab"


@given(st.data())
def test_any_cut_of_the_bytes_gives_the_same_answer(data: st.DataObject) -> None:
    whole = sent(*chunks_of({**ASKED, "n": 2}, ["ä", "€", '"', "\\"]))
    if data.draw(st.booleans()):
        whole = whole.replace(b"\n", b"\r\n")
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    parts = [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]
    asked = data.draw(st.booleans())
    once = Stream(route="m", choices=2, usage_asked=asked)
    cut = Stream(route="m", choices=2, usage_asked=asked)
    assert through(cut, *parts) == through(once, whole)
    assert cut.usage == once.usage == Usage(7, 8, 4)


def test_usage_goes_only_to_those_who_asked_and_is_always_known() -> None:
    for asked in (False, True):
        stream = Stream(route="m", usage_asked=asked)
        made = through(stream, sent(*chunks_of(ASKED, ["a"])))[:-1]
        assert stream.usage == Usage(7, 1, 4)
        with_usage = [one for one in made if one.get("usage")]
        assert [one["choices"] for one in with_usage] == ([[]] if asked else [])
        others = [one for one in made if not one.get("usage")]
        # As OpenAI says it: null in all other events if it was asked for, else not there.
        assert all(("usage" in one) is asked and one.get("usage") is None for one in others)


@pytest.mark.parametrize("asked", [False, True])
def test_usage_beside_the_last_words_is_moved_behind_them(asked: bool) -> None:
    *words, end, _ = chunks_of(ASKED, ["a"])
    stream = Stream(route="m", usage_asked=asked)
    made = through(stream, sent(*words, {**end, "usage": usage(1)}))
    assert stream.usage == Usage(7, 1, 4)
    assert all(not one.get("usage") for one in made[:-1] if one["choices"])
    if asked:
        assert (made[-2]["choices"], made[-2]["usage"]["total_tokens"], made[-2]["model"]) == ([], 8, "m")
    else:
        assert made[-2]["choices"][0]["finish_reason"] == "stop"


def test_usage_in_all_events_stays_where_the_client_asked_for_it() -> None:
    values = [{**one, "usage": usage(number)} for number, one in enumerate(chunks_of(ASKED, ["a"]))]
    made = through(Stream(route="m", usage_asked=True, usage_in_all=True), sent(*values))
    assert [one["usage"]["completion_tokens"] for one in made[:-1]] == [0, 1, 2, 3]


def test_a_choice_ends_once() -> None:
    values = chunks_of({"model": "served", "n": 2}, ["a"])
    again = {**values[-1], "choices": [{**values[-1]["choices"][0], "delta": {"content": "more"}}]}
    made = through(Stream(route="m", choices=2), sent(*values, values[-1], again))
    ends = [one["choices"][0]["index"] for one in made[:-1] if one["choices"][0]["finish_reason"]]
    assert ends == [0, 1]
    assert made[-2]["choices"][0]["delta"] == {"content": "more"}


def test_done_is_added_where_all_choices_have_ended() -> None:
    whole = sent(*chunks_of({"model": "served", "n": 2}, ["a"]), done=False)
    assert through(Stream(route="m", choices=2), whole)[-1] == "[DONE]"


@pytest.mark.parametrize("kept", range(1, 6))
def test_a_stream_that_ends_before_its_choices_is_cut(kept: int) -> None:
    values = chunks_of({"model": "served", "n": 2}, ["a"])
    stream = Stream(route="m", choices=2)
    stream.feed(sent(*values[:kept], done=False))
    with pytest.raises(Cut):
        stream.end()


def test_an_event_cut_in_the_middle_is_no_event() -> None:
    stream = Stream(route="m")
    values = chunks_of({"model": "served"}, ["a"])
    made = stream.feed(sent(*values[:2], done=False) + event(values[2])[:40])
    assert len(got(made)) == 2
    with pytest.raises(Cut):
        stream.end()


def test_a_last_event_without_its_empty_line_counts() -> None:
    whole = sent(*chunks_of({"model": "served"}, ["a"])).rstrip(b"\n")
    assert through(Stream(route="m"), whole)[-1] == "[DONE]"


def test_an_error_in_the_stream_stops_it_and_is_told() -> None:
    values = chunks_of({"model": "served"}, ["a", "b"])
    said = {"message": "out of memory", "type": "x", "code": 500}
    stream = Stream(route="m")
    made = stream.feed(sent(*values[:2], {"error": said}, *values[2:]))
    assert (len(got(made)), stream.failed, stream.done) == (2, said, False)
    assert got(error_event(said, "/v1/chat/completions")) == [{"error": said}]


def test_comments_wait_for_the_first_event_so_that_another_engine_can_still_answer() -> None:
    stream = Stream(route="m")
    assert stream.feed(b": ping\n\n") == b""
    assert not stream.begun
    first = stream.feed(event(chunks_of({"model": "served"}, [])[0]))
    assert first.startswith(b": ping\n\ndata: ")
    assert stream.feed(b": ping\n\n") == b": ping\n\n"


def test_nothing_follows_done() -> None:
    whole = sent(*chunks_of({"model": "served"}, ["a"]))
    stream = Stream(route="m")
    assert stream.feed(whole + sent({"model": "served", "choices": []})) == stream.feed(b"") + Stream(route="m").feed(
        whole
    )


def test_json_with_spaces_is_renamed_too() -> None:
    whole = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks_of(ASKED, ["a"])) + DONE
    made = through(Stream(route="m"), whole)
    assert {one["model"] for one in made[:-1]} == {"m"}


def test_a_name_that_looks_like_the_field_in_a_text_stays() -> None:
    values = chunks_of({"model": "served"}, ['"model":"served"'])
    made = through(Stream(route="m"), sent(*values))
    assert made[1]["choices"][0]["delta"]["content"] == '"model":"served"'


@pytest.mark.parametrize("last", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_end_with_their_own_event_and_say_their_usage(last: str) -> None:
    said = {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 2}}
    values: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r", "model": "served", "error": None}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": last, "response": {"id": "r", "model": "served", "error": None, "usage": said}},
    ]
    whole = b"".join(b"event: " + str(one["type"]).encode() + b"\n" + event(one) for one in values)
    stream = Stream(route="m")
    out = stream.feed(whole) + stream.end()
    assert stream.done
    assert stream.usage == Usage(5, 6, 2)
    assert out.count(b"event: response.") == 3
    assert [one["response"]["model"] for one in got(out) if "response" in one] == ["m", "m"]
    broken = Stream(route="m")
    broken.feed(whole[: whole.rindex(b"event:")])
    with pytest.raises(Cut):
        broken.end()


def test_messages_add_up_their_usage() -> None:
    values: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "served", "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    ]
    stream = Stream(route="m")
    out = stream.feed(b"".join(f"event: {one['type']}\n".encode() + event(one) for one in values)) + stream.end()
    assert stream.usage == Usage(9, 12)
    assert got(out)[0]["message"]["model"] == "m"


def test_of_a_stream_that_was_left_at_least_its_events_are_counted() -> None:
    stream = Stream(route="m")
    stream.feed(sent(*chunks_of(ASKED, ["a", "b"])[:3], done=False))
    assert stream.tokens() == Usage(None, 3, None)
