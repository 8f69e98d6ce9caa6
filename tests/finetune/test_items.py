"""Items are rows of a token store by the sequences each of them has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmops.finetune.items import Items
from llmops.finetune.method import ANSWER, LABELLED, PAIR, Item
from llmops.finetune.token_file import Writer
from llmops.finetune.tokens import TokenStore

LENGTHS = (4, 7, 3, 9, 6, 5)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Six sequences of which all but the first token are labels; sequence i has weight and value i // 2."""
    with Writer(tmp_path / "t", values=True) as out:
        for number, length in enumerate(LENGTHS):
            ids = np.full(length, number, dtype=np.int32)
            out.add(ids, np.arange(length) > 0, 1.0 + number // 2, number // 2)
        out.finish()
    return TokenStore.open(tmp_path / "t")


@pytest.mark.parametrize(
    ("item", "lengths", "labels", "trained", "measured"),
    [
        pytest.param(ANSWER, [4, 7, 3, 9, 6, 5], [3, 6, 2, 8, 5, 4], [1], [], id="a row is a sequence"),
        pytest.param(PAIR, [11, 12, 11], [9, 10, 9], [2, 3], [], id="a pair shares a pass"),
        pytest.param(LABELLED, [7, 9, 6], [3, 2, 5], [2], [3], id="what is measured has a pass of its own"),
    ],
)
def test_lengths_and_labels_are_those_of_a_pass(
    store: TokenStore, item: Item, lengths: list[int], labels: list[int], trained: list[int], measured: list[int]
) -> None:
    items = Items.of(store, item)
    assert len(items) == len(lengths)
    assert items.lengths.tolist() == lengths
    assert items.trained_counts.tolist() == labels
    assert (list(items.trained(1)), list(items.measured(1))) == (trained, measured)


def test_weights_values_and_the_labels_of_one_place_are_by_item(store: TokenStore) -> None:
    items = Items.of(store, PAIR)
    assert items.weights.tolist() == [1.0, 2.0, 3.0]
    assert items.values([2, 0, 2]).tolist() == [2.0, 0.0, 2.0]
    assert items.labels([0, 2, 2], 0) == 3 + 5 + 5
    assert items.labels([0, 2, 2], 1) == 6 + 4 + 4


def test_the_profile_is_of_the_sequences_that_are_trained_as_often_as_an_epoch_sees_them(store: TokenStore) -> None:
    pairs, labelled = Items.of(store, PAIR).profile(), Items.of(store, LABELLED).profile()
    assert pairs.counts == ((3, 2.0), (4, 1.0), (5, 3.0), (6, 3.0), (7, 1.0), (9, 2.0))
    assert labelled.counts == ((3, 2.0), (4, 1.0), (6, 3.0))
    assert labelled.trained_tokens == 3 + 2 * 2 + 3 * 5
