"""Answers that name a class: accuracy, precision, recall and F1, over all classes and of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from llmops.errors import InputError
from llmops.eval.scorers.catalog import Scorer, scorers
from llmops.eval.scorers.text import Pattern, extracted, normal

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric
    from llmops.stats import Values

_OF_ALL = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
_OF_ONE = ("precision", "recall", "f1")


@scorers.add("classes")
class Classes(Scorer):
    """Accuracy and macro precision, recall and F1 (0 to 1) of answers that name a class.

    Metrics `accuracy`, `macro_precision`, `macro_recall`, `macro_f1`, and with `labels` given also `precision[label]`,
    `recall[label]` and `f1[label]` of each. A macro value is the mean over the classes that some item has or some
    answer names; a class that is never named has precision 0. An answer that names no class is wrong and counts for
    no class. An item with several references is of the class its answer names if that is one of them, else of the
    first.
    """

    labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)] | None = None
    """The classes; null takes those of the references, and measures only what concerns all of them."""
    pattern: Pattern | None = None
    """Where the answer names its class, for answers that say more: what the group (or, without one, the whole
    pattern) finds last, as in `label: (\\w+)`. Null takes the whole answer. References are labels as they stand."""
    lowercase: bool = True
    """Compare labels without case."""

    @model_validator(mode="after")
    def _each_label_once(self) -> Self:
        known: dict[str, str] = {}
        for label in self.labels or []:
            other = known.setdefault(self._label(label), label)
            if other is not label:
                raise ValueError(f"the labels {other!r} and {label!r} are one class; leave one of them out")
        return self

    def names(self) -> tuple[str, ...]:
        return (*_OF_ALL, *(f"{name}[{label}]" for label in self.labels or () for name in _OF_ONE))

    def check_items(self, items: Sequence[Item]) -> None:
        self._classes([[self._label(one) for one in item.references] for item in items])

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        import numpy as np

        from llmops.eval.metric import Metric, share_of

        references = [[self._label(one) for one in item.references] for item in items]
        classes = self._classes(references)
        given = [self._given(item.answer) for item in items]
        truth = [one if one in refs else refs[0] for one, refs in zip(given, references, strict=True)]
        places = {label: place for place, label in enumerate(classes)}
        statistics = np.zeros((len(items), len(classes), 3))  # right, named, true
        for row, (one, other) in enumerate(zip(given, truth, strict=True)):
            statistics[row, places[other], 2] = 1
            if one in places:
                statistics[row, places[one], 1] = 1
                statistics[row, places[one], 0] = one == other
        how = (
            f"labels:{'given' if self.labels else 'references'}|case:{'lc' if self.lowercase else 'mixed'}"
            f"|pattern:{self.pattern or 'none'}"
        )
        hits = [one == other for one, other in zip(given, truth, strict=True)]
        found = [share_of("accuracy", how, hits)]
        flat = statistics.reshape(len(items), -1)
        for kind in ("precision", "recall", "f1"):
            # An item alone is right or wrong; it has no macro value of its own.
            alone = np.asarray(hits, dtype=np.float64)
            found.append(Metric(f"macro_{kind}", how, f"macro_{kind}", flat, alone, span=1.0))
        for label, place in zip(self.labels or (), range(len(classes)), strict=False):
            right, named, true = statistics[:, place].T
            found += [
                _of_class(f"precision[{label}]", how, right, named),
                _of_class(f"recall[{label}]", how, right, true),
                _of_class(f"f1[{label}]", how, 2 * right, named + true),
            ]
        return found

    def _label(self, text: str) -> str:
        return normal(text, lowercase=self.lowercase)

    def _given(self, answer: str) -> str | None:
        found = [answer] if self.pattern is None else extracted(self.pattern, answer)
        return self._label(found[-1]) if found else None

    def _classes(self, references: Sequence[Sequence[str]]) -> list[str]:
        there = {label for refs in references for label in refs}
        if self.labels is None:
            return sorted(there)
        classes = [self._label(label) for label in self.labels]
        if unknown := sorted(there - set(classes)):
            raise InputError(
                f"the reference {unknown[0]!r} is none of the labels {', '.join(self.labels)}",
                fix="add it to `labels` of the scorer `classes`, or mend the reference",
            )
        return classes


def _of_class(name: str, how: str, above: Values, below: Values) -> Metric:
    """A ratio of sums, 0 where the class is not there; an item that is not of it has no value."""
    import numpy as np

    from llmops.eval.metric import Metric

    alone = np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
    return Metric(name, how, "ratio:1:0", np.stack([above, below], axis=1), alone, span=1.0)
