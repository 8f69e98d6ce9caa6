"""Rows that say the same as an earlier one: exactly, up to space and case, or nearly, by overlap of word 5-grams."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHINGLE = 5
_PERMUTATIONS = 128  # the estimate of a similarity s is off by √(s(1−s)/128), 0.027 at 0.9
_VERIFIED = 32  # candidates whose true similarity is computed per row; bounds the work on rows that are all alike
_REMEMBERED = 2048  # rows whose shingles are kept at hand
# Scripts written without spaces: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_EDGE = re.compile(r"^\W+|\W+$")


def words(text: str) -> list[str]:
    """The words of a text: NFC, case folded, punctuation at their ends taken off; Chinese and Japanese by character."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return [word for found in _WORD.findall(folded) if (word := _EDGE.sub("", found))]


def grams(of: Sequence[str], length: int) -> set[int]:
    """64-bit hashes of every run of `length` words, the same in every process; empty for fewer words."""
    return {_hash(" ".join(of[first : first + length])) for first in range(len(of) - length + 1)}


def shingles(text: str) -> set[int]:
    """What near duplicates are compared by: 5-grams of words; of fewer words than five, all of them as one."""
    of = words(text)
    return grams(of, SHINGLE) if len(of) >= SHINGLE else {_hash(" ".join(of))}


def jaccard(one: set[int], other: set[int]) -> float:
    """Share of what two sets have together that they have in common, 0 to 1."""
    return len(one & other) / len(one | other)


class Duplicates:
    """Remembers 16 bytes of each text it has seen."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}

    def first(self, text: str, at: int) -> int | None:
        """The row whose text equals this one up to space and case; None remembers this one as row `at`."""
        folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
        key = hashlib.blake2b(folded.encode(), digest_size=16).digest()
        first = self._first.setdefault(key, at)
        return None if first == at else first


class NearDuplicates:
    """Finds an earlier row at least `similarity` alike (Jaccard of word 5-grams).

    MinHash signatures in LSH buckets propose rows (Broder 1997; about 3 KB a row in memory); the
    true similarity, computed from their texts, decides. So a row that is found is always alike,
    while one just above the limit may be missed.

    Args:
        text_of: the text of a row seen before, by the number it was given.
    """

    def __init__(self, similarity: float, *, text_of: Callable[[int], str]) -> None:
        from datasketch import MinHash, MinHashLSH

        self._similarity = similarity
        self._empty: Any = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=_low_bits)
        # A missed duplicate costs more here than a candidate too many, which is verified.
        self._buckets: Any = MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS, weights=(0.1, 0.9))
        self._signatures: dict[int, NDArray[Any]] = {}
        self._shingles = lru_cache(_REMEMBERED)(lambda at: shingles(text_of(at)))

    def first(self, text: str, at: int) -> int | None:
        """An earlier row as much like this one as asked for; None remembers this one as row `at`."""
        mine = shingles(text)
        sketch = self._empty.copy()
        sketch.update_batch(list(mine))
        for candidate in self._likeliest(sketch):
            if jaccard(mine, self._shingles(candidate)) >= self._similarity:
                return candidate
        self._buckets.insert(at, sketch, check_duplication=False)
        self._signatures[at] = sketch.hashvalues.astype("uint32")
        return None

    def _likeliest(self, sketch: Any) -> list[int]:
        """Rows in a bucket with this one, those whose signatures agree most first, then the earliest."""
        candidates = sorted(self._buckets.query(sketch))
        if len(candidates) > 1:
            mine = sketch.hashvalues.astype("uint32")
            agree = {at: int((self._signatures[at] == mine).sum()) for at in candidates}
            candidates.sort(key=lambda at: (-agree[at], at))
        return candidates[:_VERIFIED]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _low_bits(gram: int) -> int:
    """MinHash permutes 32-bit numbers; grams are hashes already."""
    return gram & 0xFFFFFFFF
