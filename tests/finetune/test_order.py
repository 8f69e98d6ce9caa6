"""Which rows are in which update depends on lengths, weights, recipe and seed alone; every row is seen as said."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.finetune.order import Order
from llmops.finetune.recipe import Batch, Schedule


def an_order(
    lengths: list[int],
    *,
    sequences: int = 4,
    per_device: int = 2,
    packing: bool = False,
    epochs: float = 1,
    steps: int | None = None,
    weights: list[float] | None = None,
    seed: int = 0,
    world: int = 1,
) -> Order:
    return Order(
        lengths=np.array(lengths, dtype=np.int64),
        weights=np.array(weights or [1.0] * len(lengths), dtype=np.float32),
        batch=Batch(sequences=sequences, per_device=per_device, packing=packing, max_length=max(64, max(lengths))),
        schedule=Schedule(steps=steps) if steps else Schedule(epochs=epochs),
        seed=seed,
        world=world,
    )


rows = st.lists(st.integers(1, 64), min_size=1, max_size=60)


@given(lengths=rows, packing=st.booleans(), world=st.sampled_from([1, 2]), seed=st.integers(0, 5))
def test_every_row_is_in_an_epoch_exactly_once(lengths: list[int], packing: bool, world: int, seed: int) -> None:
    order = an_order(lengths, packing=packing, world=world, epochs=2, seed=seed)
    updates = list(order.updates())
    assert len(updates) == order.total
    assert [update.index for update in updates] == list(range(1, order.total + 1))
    seen = Counter(row for update in updates for row in update.rows)
    assert seen == dict.fromkeys(range(len(lengths)), 2)


@given(lengths=rows, packing=st.booleans(), after=st.integers(0, 20))
def test_going_on_after_an_update_meets_the_same_updates(lengths: list[int], packing: bool, after: int) -> None:
    order = an_order(lengths, packing=packing, epochs=3)
    assert list(order.updates(after)) == list(order.updates())[after:]


@given(lengths=rows, world=st.sampled_from([1, 2]), packing=st.booleans())
def test_an_update_holds_the_same_rows_however_it_is_split(lengths: list[int], world: int, packing: bool) -> None:
    whole = an_order(lengths, sequences=4, per_device=4, epochs=2, packing=packing)
    split = an_order(lengths, sequences=4, per_device=2 // world, world=world, epochs=2, packing=packing)
    assert order_rows(whole) == order_rows(split)


def order_rows(order: Order) -> list[list[int]]:
    return [update.rows for update in order.updates()]


@given(lengths=rows, packing=st.booleans())
def test_the_first_pass_holds_the_longest_sequences(lengths: list[int], packing: bool) -> None:
    order = an_order(lengths, packing=packing, epochs=2)
    first = next(order.updates()).passes[0][0]
    sizes = [sum(lengths[row] for row in group) for group in order.groups(0)]
    longest = sorted(sizes, reverse=True)[: len(first)]
    assert sorted((sum(lengths[row] for row in group) for group in first), reverse=True) == longest


@given(lengths=rows)
def test_packed_sequences_stay_within_the_limit(lengths: list[int]) -> None:
    order = an_order(lengths, packing=True)
    for group in order.groups(0):
        assert sum(lengths[row] for row in group) <= order.batch.max_length


def test_a_weight_of_two_shows_a_row_twice_and_of_a_half_every_other_epoch() -> None:
    order = an_order([5] * 40, weights=[2.0] * 20 + [0.5] * 20, epochs=2)
    seen = Counter(row for update in order.updates() for row in update.rows)
    assert all(seen[row] == 4 for row in range(20))
    assert all(seen[row] == 1 for row in range(20, 40))


def test_epochs_differ_in_order_and_seeds_too() -> None:
    order = an_order(list(range(1, 41)), epochs=2)
    assert order.groups(1) != order.groups(2)
    assert order.groups(1) != an_order(list(range(1, 41)), seed=1).groups(1)
    assert order.groups(1) == an_order(list(range(1, 41))).groups(1)


@pytest.mark.parametrize(("epochs", "expected"), [(1, 3), (2, 6), (0.5, 2), (1.5, 5)], ids=lambda value: str(value))
def test_updates_are_counted_with_the_short_last_one(epochs: float, expected: int) -> None:
    assert an_order([8] * 10, sequences=4, epochs=epochs).total == expected


def test_steps_cut_or_repeat_the_epochs() -> None:
    order = an_order([8] * 10, sequences=4, steps=7)
    updates = list(order.updates())
    assert len(updates) == 7
    assert updates[-1].epoch == pytest.approx(2 + 1 / 3)


def test_a_short_last_update_leaves_processes_empty_but_has_them_take_part() -> None:
    order = an_order([8] * 5, sequences=4, per_device=2, world=2)
    last = list(order.updates())[-1]
    assert [len(share) for share in last.passes[0]] == [1, 0]
