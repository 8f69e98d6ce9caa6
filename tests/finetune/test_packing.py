"""Rows share sequences without loss, without overflow and the same way each time; documents keep their borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmops.finetune.packing import best_fit_decreasing, collate, utilisation


def slow_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """How full each bin becomes when every bin is looked at for every row: O(rows · bins)."""
    bins: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [place for place, full in enumerate(bins) if full + length <= capacity]
        if fitting:
            bins[max(fitting, key=lambda place: bins[place])] += length
        else:
            bins.append(length)
    return bins


@st.composite
def rows_and_capacity(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 64))
    return draw(st.lists(st.integers(1, capacity), max_size=120)), capacity


@given(rows_and_capacity())
def test_every_row_is_in_exactly_one_bin_and_no_bin_overflows(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(row for one in bins for row in one) == list(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in one) <= capacity for one in bins)


@given(rows_and_capacity())
def test_it_fills_bins_as_looking_at_every_bin_would(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    filled = sorted(sum(lengths[row] for row in one) for one in best_fit_decreasing(lengths, capacity))
    assert filled == sorted(slow_best_fit(lengths, capacity))


@given(rows_and_capacity())
def test_no_two_bins_fit_into_one_and_there_are_fewer_than_twice_as_many_as_the_tokens_fill(
    case: tuple[list[int], int],
) -> None:
    lengths, capacity = case
    bins = best_fit_decreasing(lengths, capacity)
    filled = sorted(sum(lengths[row] for row in one) for one in bins)
    assert len(filled) < 2 or filled[0] + filled[1] > capacity
    # No packing has fewer bins than the tokens fill.
    fewest = math.ceil(sum(lengths) / capacity)
    assert fewest <= len(bins) <= 2 * fewest


def test_it_is_the_same_each_time_and_of_equal_rows_the_earlier_goes_first() -> None:
    assert best_fit_decreasing([3, 5, 3, 5, 2], 8) == best_fit_decreasing([3, 5, 3, 5, 2], 8)
    assert best_fit_decreasing([2, 2, 2], 4) == [[0, 1], [2]]


def test_a_known_case() -> None:
    # 7 leaves room for 3, 6 for 4: a first fit in the order given would need three bins.
    bins = best_fit_decreasing([4, 7, 3, 6], 10)
    assert bins == [[1, 2], [3, 0]]
    assert utilisation([4, 7, 3, 6], bins, 10) == 1.0


def test_many_rows_take_no_longer_than_sorting_them_would_suggest() -> None:
    # Looking at every bin would be 10^10 steps; the test's time limit is the assertion.
    lengths = np.random.default_rng(0).integers(20, 400, size=100_000).tolist()
    bins = best_fit_decreasing(lengths, 2048)
    assert utilisation(lengths, bins, 2048) > 0.99


@pytest.mark.parametrize("lengths", [[9], [0], [3, -1]])
def test_a_row_that_fits_nowhere_is_an_error_and_not_left_out(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="1 to 8 tokens"):
        best_fit_decreasing(lengths, 8)


def test_nothing_needs_no_bin() -> None:
    assert best_fit_decreasing([], 8) == []
    assert utilisation([], [], 8) == 1.0


class Rows:
    """Rows whose ids are all different; every token is a label but the first."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def row(self, index: int, /) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        begin = 1 + sum(self.lengths[:index])
        ids = np.arange(begin, begin + self.lengths[index], dtype=np.int32)
        return ids, np.arange(len(ids)) > 0


def test_a_packed_batch_to_the_letter() -> None:
    batch = collate(Rows([3, 2, 4]), [[0, 1], [2]], pad_id=0, multiple_of=2)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 0, 0]]
    assert batch.trained.tolist() == [[0, 1, 1, 0, 1, 0], [0, 1, 1, 1, 0, 0]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, -1, -1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert batch.packed
    assert batch.padded


def test_an_unpacked_batch_has_one_row_a_sequence() -> None:
    batch = collate(Rows([8, 3]), [[0], [1]], pad_id=0)
    assert batch.input_ids.shape == (2, 8)
    assert not batch.packed
    assert batch.padded
    assert not collate(Rows([8]), [[0]], pad_id=0).padded


def test_position_ids_are_two_dimensional() -> None:
    # Three dimensions are read by some models as another kind of position.
    assert collate(Rows([3, 2]), [[0, 1]], pad_id=0).position_ids.ndim == 2


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.sampled_from([1, 8]))
def test_no_label_crosses_a_border_and_nothing_is_lost(shape: list[list[int]], multiple_of: int) -> None:
    lengths = [length for sequence in shape for length in sequence]
    numbers = iter(range(len(lengths)))
    sequences = [[next(numbers) for _ in sequence] for sequence in shape]
    batch = collate(Rows(lengths), sequences, pad_id=0, multiple_of=multiple_of)
    assert batch.input_ids.shape[1] % multiple_of == 0
    assert sorted(batch.input_ids[batch.documents >= 0]) == list(range(1, sum(lengths) + 1))
    assert not batch.trained[:, 0].any()
    crosses = batch.documents[:, 1:] != batch.documents[:, :-1]
    assert not (batch.trained[:, 1:] & crosses).any()
    assert not batch.trained[batch.documents < 0].any()
    assert (batch.position_ids[:, 1:][crosses & (batch.documents[:, 1:] >= 0)] == 0).all()
    # Every row of n tokens has n − 1 labels here.
    assert batch.trained.sum() == sum(lengths) - len(lengths)


def test_a_first_token_is_no_label_even_if_its_row_says_so() -> None:
    class Careless(Rows):
        def row(self, index: int, /) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
            ids, _ = super().row(index)
            return ids, np.ones(len(ids), dtype=np.bool_)

    batch = collate(Careless([3, 2]), [[0, 1]], pad_id=0, multiple_of=1)
    assert batch.trained.tolist() == [[False, True, True, False, True]]


@pytest.mark.parametrize("sequences", [[], [[]], [[0], []]])
def test_a_sequence_without_rows_is_an_error(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="each of them a row"):
        collate(Rows([3]), sequences, pad_id=0)
