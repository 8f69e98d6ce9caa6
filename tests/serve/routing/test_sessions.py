"""A conversation that went to the large model stays there until it is not heard of; memory has a bound."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.routing.sessions import Sessions, session_of

HELLO = {"role": "user", "content": "hello"}


def chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": "auto", "messages": list(messages)}


def test_a_conversation_keeps_its_digest_as_it_grows() -> None:
    first = session_of(chat(HELLO), {}, "k")
    later = chat(HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "2 + 2?"})
    assert session_of(later, {}, "k") == first
    assert session_of(chat({"role": "system", "content": "be brief"}, HELLO), {}, "k") != first
    assert session_of(chat({"role": "user", "content": "hello!"}), {}, "k") != first


def test_an_id_goes_before_the_words() -> None:
    one = session_of(chat(HELLO), {"x-session-id": "s1"}, "k")
    assert session_of(chat({"role": "user", "content": "other"}), {"x-session-id": "s1"}, "k") == one
    assert session_of(chat(HELLO), {"x-session-id": "s2"}, "k") != one
    assert session_of(chat(HELLO), {}, "k") != one


def test_callers_do_not_share_sessions() -> None:
    headers = {"x-session-id": "s1"}
    found = {session_of(chat(HELLO), headers, caller) for caller in (None, "a", "b")}
    assert len(found) == 3
    # Nor by writing part of the id into the other.
    assert session_of({}, {"x-session-id": "bc"}, "a") != session_of({}, {"x-session-id": "c"}, "ab")


def test_dialects_have_sessions() -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": "a"}, {"prompt": "b"}, {"input": "a", "instructions": "x"}, {"input": "a"}, {},
    ]  # fmt: skip
    assert session_of({"prompt": "a"}, {}, None) == session_of({"input": "a"}, {}, None)
    assert len({session_of(body, {}, None) for body in bodies}) == 4


def test_it_stays_up_until_it_expires() -> None:
    sessions = Sessions()
    assert not sessions.raised("s", now=0.0)
    sessions.raise_("s", now=0.0, seconds=10.0)
    assert sessions.raised("s", now=9.9)
    assert not sessions.raised("s", now=10.0)
    assert len(sessions) == 0


def test_each_large_turn_begins_the_time_anew() -> None:
    sessions = Sessions()
    sessions.raise_("s", now=0.0, seconds=10.0)
    sessions.raise_("s", now=8.0, seconds=10.0)
    assert sessions.raised("s", now=17.0)


def test_the_one_not_heard_of_longest_goes_first() -> None:
    sessions = Sessions(most=2)
    for name in ("a", "b", "a", "c"):
        sessions.raise_(name, now=0.0, seconds=10.0)
    assert [sessions.raised(name, now=1.0) for name in "abc"] == [True, False, True]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["raise", "ask"]), st.floats(0, 5)), max_size=60
    ),
    most=st.integers(1, 4),
)
def test_it_is_as_a_plain_list_of_events_says(steps: list[tuple[str, str, float]], most: int) -> None:
    """Against a slow model: the last `most` names raised, each for 7 seconds."""
    sessions, now = Sessions(most=most), 0.0
    model: list[tuple[str, float]] = []
    for name, what, wait in steps:
        now += wait
        if what == "raise":
            sessions.raise_(name, now=now, seconds=7.0)
            model = [*[one for one in model if one[0] != name], (name, now + 7.0)][-most:]
        else:
            until = dict(model).get(name)
            assert sessions.raised(name, now=now) == (until is not None and until > now)
            model = [one for one in model if one[0] != name or one[1] > now]
        assert len(sessions) <= most
