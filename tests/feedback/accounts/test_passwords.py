"""Passwords are long, not the ones guessed first, and kept as argon2id."""

from __future__ import annotations

import threading
from typing import Literal

import pytest
from argon2 import PasswordHasher, extract_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.feedback.passwords import LONGEST, SHORTEST, Passwords, check_new
from llmops.feedback.refused import Refused
from tests.patience import HANG_S, wait_until

CHEAP = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def test_what_is_kept_is_argon2id_as_dear_as_rfc_9106_asks_where_memory_is_little() -> None:
    """RFC 9106, section 4: 3 passes over 64 MiB in 4 lanes, a salt of 128 bits, a tag of 256."""
    found = extract_parameters(Passwords().hash("four plain words together"))
    assert (found.type.name, found.time_cost, found.memory_cost, found.parallelism) == ("ID", 3, 65536, 4)
    assert (found.salt_len, found.hash_len) == (16, 32)


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
@settings(max_examples=12, deadline=None)
def test_a_password_fits_itself_and_no_other(one: str, two: str) -> None:
    kept = CHEAP.hash(one)
    assert CHEAP.fits(one, kept)
    assert CHEAP.hash(one) != kept, "salted"
    if CHEAP.fits(two, kept):
        import unicodedata

        assert unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", two)


def test_one_letter_typed_in_two_ways_is_one_password() -> None:
    assert CHEAP.fits("cafe\u0301 au lait", CHEAP.hash("caf\u00e9 au lait"))


def test_nothing_fits_where_none_is_kept() -> None:
    assert not CHEAP.fits("any password at all", None)
    assert not CHEAP.fits("x", "no hash at all")
    assert not CHEAP.fits("", None)


@pytest.mark.parametrize(
    ("password", "login", "said"),
    [
        pytest.param("x" * (SHORTEST - 1), "ann", "12 are the least", id="short"),
        pytest.param("abcdef" * (LONGEST // 6 + 1), "ann", "longer than 1024", id="too long"),
        pytest.param("aaaaaaaabbbbbbbb", "ann", "different letters", id="few letters"),
        pytest.param("QwertyUiop123", "ann", "lists", id="known, whatever its capitals"),
        pytest.param("ann-smith1234", "ann-smith", "little more than the login", id="the login and digits"),
        pytest.param("ann.smith@2026", "ann.smith@example.org", "little more than the login", id="half of an address"),
        pytest.param("Annabella-2026!", "a", "little more than the login or the name", id="the name"),
    ],
)
def test_what_is_guessed_first_is_not_taken(password: str, login: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        check_new(password, login=login, name="Annabella")
    assert password not in str(refused.value)


@pytest.mark.parametrize(
    "password", ["four plain words together", "日本語のながいことばです", "x9!Lq02#vTz&", "ann likes green tea"]
)
def test_others_are(password: str) -> None:
    check_new(password, login="ann", name="Ann Smith")


class Slow(PasswordHasher):
    """Verifies nothing until it is let go; knows how many it was at."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.go, self.busy, self.most = threading.Event(), 0, 0

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 (argon2's own word)
        self.busy += 1
        self.most = max(self.most, self.busy)
        assert self.go.wait(HANG_S)
        self.busy -= 1
        return super().verify(hash, password)


def test_a_flood_of_sign_ins_leaves_threads_to_raters() -> None:
    slow = Slow()
    passwords = Passwords(slow)
    kept = passwords.hash("four plain words")
    said: list[object] = []

    def check() -> None:
        try:
            said.append(passwords.fits("four plain words", kept))
        except Refused as refused:
            said.append((refused.status, refused.retry_after))

    threads = [threading.Thread(target=check) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(said) >= 12)
    assert said == [(503, 2)] * 12, "eight wait, the others are told at once"
    slow.go.set()
    for thread in threads:
        thread.join()
    assert said[12:] == [True] * 8
    assert slow.most == 2
    assert passwords.fits("four plain words", kept)
