"""Passwords are long, not the ones guessed first, and kept as argon2id."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher, extract_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.feedback.passwords import LONGEST, SHORTEST, Passwords, check_new

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
