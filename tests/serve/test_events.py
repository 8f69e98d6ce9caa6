"""Events come out of bytes the same, however the network cut them and whatever ends their lines."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmops.serve import events
from llmops.serve.events import Events, TooLarge, data_of

lines = st.sampled_from(
    [b"data: a", b"data:b", b'data: {"x": "\xc3\xa4\xe2\x82\xac"}', b": ping", b"event: e", b"id: 3", b"data", b"data:"]
)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        for line in draw(st.lists(lines, max_size=3)):
            parts.append(line + draw(ends))
        parts.append(draw(ends))
    return b"".join(parts)


@st.composite
def cut(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    whole = draw(streams())
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return whole, [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


def line_by_line(whole: bytes) -> list[bytes]:
    """Events as the specification of server-sent events reads them: one line after the other."""
    found: list[bytes] = []
    now: list[bytes] = []
    text = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in text.split(b"\n")[:-1]:
        if line:
            now.append(line)
        elif now:
            found.append(b"\n".join(now))
            now = []
    return found


@given(cut())
@example((b"data: a\r\n\r\ndata: b\r\n\r\n", [b"data: a\r", b"\n\r", b"\ndata: b\r\n\r", b"\n"]))
@example((b"data: a\r\rdata: b\n\n", [b"data: a\r", b"\rdata: b\n", b"\n"]))
def test_any_cut_gives_the_same_events(given_: tuple[bytes, list[bytes]]) -> None:
    whole, parts = given_
    taken = Events()
    assert [event for part in parts for event in taken.feed(part)] == line_by_line(whole)


def test_what_is_not_ended_is_the_rest() -> None:
    taken = Events()
    assert taken.feed(b"data: a\n\ndata: b\n") == [b"data: a"]
    assert taken.rest() == b"data: b"


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a", b"a"),
        (b"data:a", b"a"),
        (b"data:  a", b" a"),
        (b": ping", None),
        (b"event: e", None),
        (b"event: e\ndata: a\ndata: b", b"a\nb"),
        (b"data: a\nid: 3", b"a"),
    ],
)
def test_data_is_what_stands_behind_the_colon_less_one_space(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_an_event_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST", 100)
    taken = Events()
    taken.feed(b"data: " + b"x" * 60)
    with pytest.raises(TooLarge):
        taken.feed(b"x" * 60)
