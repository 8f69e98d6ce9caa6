"""What a scorer is, and the table of them: what a suite can measure on answers, by name, each with its settings.

A scorer leaves one row of sufficient statistics per item; a score over any choice of items is a function of the
sum of their rows, so that slices and resamples cost no second look at the texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmops.catalog import Catalog
from llmops.config import Settings

if TYPE_CHECKING:
    # Suites are read and explained where only the core is installed, which has no numpy.
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


class Scorer(Settings, ABC):
    """Settings of one scorer, which knows how to measure with them."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The metrics it yields, in order; known before anything is measured, so that a gate can be checked."""

    def check_items(self, items: Sequence[Item]) -> None:
        """Raise what `measure` would raise of these items whatever their answers are, before hours go into answers.

        Nothing to raise unless a scorer says so: most take any text.
        """

    @abstractmethod
    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        """Each metric on items with their answers, in their order; every item has at least one reference.

        Raises:
            InputError: a reference or a prompt cannot be used in the way the settings say.
        """


scorers: Catalog[type[Scorer]] = Catalog("scorer")
