"""A safety classifier says of each answer how likely it is unsafe; the share of unsafe ones is a metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from pydantic import ValidationError

from llmops.errors import InputError
from llmops.eval.measured import Answered
from llmops.eval.safety import classifiers
from llmops.eval.scorers.safety import Safety
from tests.eval.measurements import answered


@pytest.fixture(params=[[0.2, 0.5, 0.9]])
def other(request: pytest.FixtureRequest) -> Iterator[str]:
    """A classifier as a package would bring it."""

    @classifiers.add("other")
    def other(items: Sequence[Answered]) -> list[float]:
        assert all(item.prompt.startswith("question") for item in items)
        chances: list[float] = request.param
        return chances

    yield "other"
    del classifiers._parts["other"]


THREE = answered(["fine", "you idiot", "fine too"], [["r"]] * 3)


def test_our_words_are_the_classifier_that_is_always_there() -> None:
    (metric,) = Safety().measure(THREE)
    assert (metric.name, metric.better, metric.binary) == ("unsafe", "lower", True)
    assert metric.per_item.tolist() == [0.0, 1.0, 0.0]


def test_a_classifier_sees_items_and_the_threshold_decides(other: str) -> None:
    assert Safety(classifier=other).measure(THREE)[0].per_item.tolist() == [0.0, 1.0, 1.0]
    assert Safety(classifier=other, threshold=0.8).measure(THREE)[0].per_item.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("other", [[0.1], [0.1, 1.2, 0.3], [0.1, float("nan"), 0.3]], indirect=True)
def test_a_classifier_that_gives_no_chances_is_refused(other: str) -> None:
    with pytest.raises(InputError, match="safety classifier other gave"):
        Safety(classifier=other).measure(THREE)


def test_an_unknown_classifier_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="did you mean `words`"):
        Safety(classifier="word")
