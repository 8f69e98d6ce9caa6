"""Rows by length: counts, padding and packing are those of the rows themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.finetune.lengths import LengthProfile
from llmops.finetune.packing import best_fit_decreasing

CAPACITY = 64
rows = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=80)


@given(rows)
def test_packed_sequences_are_those_that_packing_makes(lengths: list[int]) -> None:
    profile = LengthProfile.from_rows(lengths, lengths)
    assert profile.packed_sequences(CAPACITY) == len(best_fit_decreasing(lengths, CAPACITY))


@given(rows)
def test_sums_are_those_of_the_rows(lengths: list[int]) -> None:
    profile = LengthProfile.from_rows(np.array(lengths), [length // 2 for length in lengths])
    assert profile.rows == len(lengths)
    assert profile.tokens == sum(lengths)
    assert profile.squares == sum(length**2 for length in lengths)
    assert profile.trained_tokens == sum(length // 2 for length in lengths)
    assert profile.longest == max(lengths)
    assert profile.percentile(0.5) == sorted(lengths)[(len(lengths) + 1) // 2 - 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 3))
def test_padding_goes_to_the_expected_longest_of_a_draw(lengths: list[int], drawn: int) -> None:
    every = [max(draw) for draw in itertools.product(lengths, repeat=drawn)]
    profile = LengthProfile.from_rows(lengths, lengths)
    assert profile.longest_of(drawn) == pytest.approx(sum(every) / len(every))


def test_a_weight_counts_a_row_as_often_as_an_epoch_sees_it() -> None:
    profile = LengthProfile.from_rows([10, 20], [5, 8], weights=[2.0, 0.5])
    assert (profile.rows, profile.tokens, profile.trained_tokens) == (2.5, 30, 14)


def test_a_row_longer_than_a_sequence_is_no_packing() -> None:
    with pytest.raises(ValueError, match="65 tokens does not fit into 64"):
        LengthProfile.from_rows([65], [1]).packed_sequences(CAPACITY)


def test_full_rows_train_all_but_their_first_token() -> None:
    profile = LengthProfile.full(3, 100, origin="assumed")
    assert (profile.tokens, profile.trained_tokens, profile.exact) == (300, 297, False)
