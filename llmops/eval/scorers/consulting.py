"""Scorers that ask somebody else, such as a judge: they keep what was said, and leave a record."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.eval.scorers.catalog import Scorer
from llmops.events import Listener, Silent

if TYPE_CHECKING:
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric


@dataclass(frozen=True, slots=True)
class Consulted:
    """What such a scorer found.

    Attributes:
        measures: numbers beside its metrics, by name.
        record: who was asked and what they said; stands in the report under the name of its first metric;
            empty where there is nothing to keep but the numbers.
    """

    metrics: list[Metric]
    measures: Mapping[str, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


class Consulting(Scorer):
    """A scorer whose numbers come from outside of this process."""

    @abstractmethod
    def consult(self, items: Sequence[Answered], *, listener: Listener, cache: Path | None) -> Consulted:
        """As `measure`, with all it found.

        Args:
            cache: folder in which what was said is kept, so that an interrupted run goes on; None keeps nothing.
        """

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        return self.consult(items, listener=Silent(), cache=None).metrics
