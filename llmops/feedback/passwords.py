"""Passwords: which are taken, how they are kept (argon2id), and a check that takes as long for a login nobody has."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.resources import files
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from llmops.errors import InputError
from llmops.feedback.refused import Refused

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, LONGEST = 12, 1024
_DISTINCT = 5
_AT_ONCE = 2
"""Checks at a time: each takes 64 MiB and all cores it can get."""
_WAITING = 8
"""Checks under way or waiting, beyond which more are refused: each holds a thread that raters need."""


class Passwords:
    """Makes and checks what is kept of passwords; holds no state but how costly a check is."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """With argon2-cffi's own parameters (RFC 9106's for little memory), unless others are passed in."""
        from argon2 import PasswordHasher

        self._hasher = hasher or PasswordHasher()
        self._places = BoundedSemaphore(_WAITING)
        self._turns = BoundedSemaphore(_AT_ONCE)

    @cached_property
    def nobody(self) -> str:
        """A hash that no password is checked for: what is verified where none is kept. A service makes it at its start,
        so that the first unknown login takes no longer than others."""
        return self._hasher.hash(secrets.token_urlsafe(32))

    def hash(self, password: str) -> str:
        """What is kept of a password.

        Raises:
            Refused: 503, too many are made or checked at once.
        """
        with self._turn():
            return self._hasher.hash(_same(password))

    def fits(self, password: str, kept: str | None) -> bool:
        """Whether it is the password; takes as long where none is kept (`kept` None), and is False then.

        Raises:
            Refused: 503, too many are made or checked at once.
        """
        from argon2.exceptions import InvalidHashError, VerificationError

        with self._turn():
            try:
                right = self._hasher.verify(kept or self.nobody, _same(password[: LONGEST + 1]))
            except (VerificationError, InvalidHashError):
                return False
        return right and kept is not None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Refused(503, "too many people sign in at once", fix="try it again in a moment", retry_after=2)
        try:
            with self._turns:
                yield
        finally:
            self._places.release()

    def stale(self, kept: str) -> bool:
        """Whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(kept)


def check_new(password: str, *, login: str, name: str = "") -> None:
    """Refuse what is guessed first.

    Raises:
        InputError: too short, too long, too plain, known from the lists, or made of the login or the name.
    """
    plain = _same(password).casefold()
    fix = f"choose {SHORTEST} letters or more, such as four words that have nothing to do with each other"
    if len(password) < SHORTEST:
        raise InputError(f"the password has {len(password)} letters, {SHORTEST} are the least", fix=fix)
    if len(password) > LONGEST:
        raise InputError(f"the password is longer than {LONGEST} letters", fix="choose a shorter one")
    if len(set(plain)) < _DISTINCT:
        raise InputError(f"the password has fewer than {_DISTINCT} different letters", fix=fix)
    if plain in _common():
        raise InputError("the password is on the lists that guessing starts with", fix=fix)
    for word in filter(
        lambda word: len(word) >= 3, {login.casefold(), login.casefold().partition("@")[0], name.casefold()}
    ):
        if len(plain.replace(word, "")) <= SHORTEST // 2:
            raise InputError("the password is little more than the login or the name", fix=fix)


@cache
def _common() -> frozenset[str]:
    """The long ones of the lists that guessing starts with."""
    return frozenset(files("llmops.feedback").joinpath("common_passwords.txt").read_text().split())


def _same(password: str) -> str:
    """One form of what keyboards write in several (NIST SP 800-63B, 5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)
