"""Votes are columns of ratings turned into numbers; what is no rating is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmops.votes import votes_of


def test_counts_say_how_often_each_item_was_said_to_be_each() -> None:
    votes = votes_of(["p", "q", "p"], ["ann", "ann", "ben"], ["A", "TIE", "B"], categories=("A", "B", "TIE"))
    assert votes.item_names == ("p", "q")
    assert votes.rater_names == ("ann", "ben")
    assert votes.counts.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_items_of_one_cluster_have_one_number() -> None:
    votes = votes_of(["p", "q", "r"], [1, 1, 1], [0, 0, 0], categories=(0, 1))
    found = votes.clusters_of({"p": "x", "q": "y", "r": "x"})
    assert found is not None
    assert found.tolist() == [0, 1, 0]
    assert votes.clusters_of(None) is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        pytest.param(([], [], []), "no ratings", id="nothing"),
        pytest.param((["p"], ["ann", "ben"], [1]), "no ratings", id="unequal columns"),
        pytest.param((["p"], ["ann"], [7]), r"\['7'\] are no categories", id="an unknown label"),
        pytest.param((["p"], ["ann"], [True]), r"\['True'\] are no categories", id="a boolean is no number"),
        pytest.param((["p", "p"], ["ann", "ann"], [0, 1]), "'ann' rated 'p' twice", id="twice"),
    ],
)
def test_what_is_no_rating_is_a_bug_of_the_caller(columns: Sequence[Sequence[Any]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        votes_of(*columns, categories=(0, 1))
