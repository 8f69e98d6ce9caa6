"""The same request at temperature 0 is answered from memory; another version, key, or word is another request."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.serve.answer_cache import LARGEST, AnswerCache, Kept, key_of
from llmops.serve.settings import Cache
from llmops.serve.usage import Usage

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
KEPT = Kept(b"{}", b"application/json", Usage(1, 2), "e", "v")


def key(body: dict[str, Any] | None = None, **others: Any) -> bytes | None:
    said = {"endpoint": "/v1/chat/completions", "version": "v", "digest": None, "caller": "k", **others}
    return key_of(body=BODY if body is None else body, **said)


def test_only_temperature_0_is_said_to_be_the_same_again() -> None:
    assert key() is not None
    assert key({**BODY, "temperature": 0.0}) is not None
    for temperature in (None, 0.1, 1, False, "0"):
        assert key({**BODY, "temperature": temperature}) is None
    assert key({"model": "m"}) is None


@pytest.mark.parametrize(
    "other", [{"endpoint": "/v1/completions"}, {"version": "w"}, {"digest": "d"}, {"caller": "l"}, {"caller": None}]
)
def test_all_that_changes_an_answer_changes_the_key(other: dict[str, Any]) -> None:
    assert key(**other) != key()
    assert key({**BODY, "seed": 1}) != key()


def test_the_order_of_fields_does_not() -> None:
    assert key(dict(reversed(BODY.items()))) == key()


def test_answers_are_held_for_their_time_and_the_least_wanted_go_first() -> None:
    cache = AnswerCache(Cache(entries=2, seconds=10))
    cache.put(b"a", KEPT, 0)
    cache.put(b"b", KEPT, 1)
    assert cache.get(b"a", 2) is KEPT
    cache.put(b"c", KEPT, 3)
    assert [cache.get(one, 4) for one in (b"a", b"b", b"c")] == [KEPT, None, KEPT]
    assert (cache.get(b"a", 9.9), cache.get(b"a", 10)) == (KEPT, None)
    assert len(cache) == 1


def test_very_long_answers_are_not_held() -> None:
    cache = AnswerCache(Cache())
    cache.put(b"a", Kept(b"x" * (LARGEST + 1), b"", Usage(), "e", "v"), 0)
    assert len(cache) == 0
