"""Metrics of Hugging Face evaluate, from a folder or the hub."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from llmops.errors import EnvironmentFault, InputError, nearest
from llmops.eval.scorers.catalog import Scorer, scorers
from llmops.eval.scorers.text import MetricName
from llmops.files import digest_of

if TYPE_CHECKING:
    from llmops.eval.items import Item
    from llmops.eval.measured import Answered
    from llmops.eval.metric import Metric

Take = Callable[[str, str], Any]
"""From a text, and whether it is an answer or a reference, to the value that a metric asks for."""
_PROBE = 40
"""Items on whose references it is tried whether the metric is a mean over items."""


@scorers.add("evaluate")
class Evaluate(Scorer):
    """Any metric of Hugging Face evaluate, by local folder or hub id, as in
    `- evaluate: {metric: metrics/my_f1, field: f1, settings: {average: macro}}`.

    Where the metric is the mean of what it gives each item alone, or gives a list with one value per item, it is kept
    by item and has intervals, slices and paired differences as every other; whether it is, is tried on the references
    and then on the answers. Any other (a macro F1, a correlation) is computed once over all items: it has a value
    without an interval, none of slices, and leaves a gate INCONCLUSIVE. Loading a metric runs the code in its folder,
    or what the hub holds under that id.
    """

    metric: Annotated[str, Field(min_length=1)]
    """A folder with the metric's script, or an id on the hub such as `exact_match`."""
    field: str | None = None
    """Which number of what it computes; null where it computes one alone."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Given to the metric's `compute`, beside predictions and references."""
    config: str | None = None
    """Configuration of a metric that has several, such as GLUE's tasks."""
    name: MetricName | None = None
    """What the metric is called here; null takes `field`, or the last part of `metric`."""
    better: Literal["higher", "lower"] = "higher"
    """Which way is good."""
    span: PositiveFloat | None = None
    """Values go from 0 to this, such as 1 or 100; null where they have no such ends. Makes intervals as wide as they
    must be where items are few or all agree."""

    def names(self) -> tuple[str, ...]:
        return (self.name or self.field or Path(self.metric).name.removesuffix(".py"),)

    def check_items(self, items: Sequence[Item]) -> None:
        self._references(*_features(self._load(), self.metric), items)

    def measure(self, items: Sequence[Answered]) -> list[Metric]:
        from llmops.eval.metric import mean_of, whole

        loaded = self._load()
        take, several = _features(loaded, self.metric)
        references = self._references(take, several, items)
        answers = [take(item.answer, "answer") for item in items]
        wanted = references if several else [one for (one,) in references]
        try:
            result = loaded.compute(predictions=answers, references=wanted, **self.settings)
        except Exception as error:  # whatever code of others raises
            raise InputError(
                f"the metric {self.metric} failed: {type(error).__name__}: {error}",
                fix="mend its `settings`, or the metric",
            ) from error
        value = self._value(result, len(items))
        each = value if isinstance(value, list) else None
        if isinstance(value, float) and self._is_mean_of_references(loaded, references, several):
            each = self._alone(loaded, answers, wanted)
            if each is not None and not _same(value, each):
                each = None
        how = (
            f"evaluate:{loaded.name}|code:{_code_digest(loaded)}|config:{self.config}|field:{self.field}"
            f"|settings:{digest_of(self.settings)[:12]}|by:{'all' if each is None else 'item'}"
        )
        (name,) = self.names()
        if each is None:
            assert isinstance(value, float)
            return [whole(name, how, value, len(items), better=self.better, span=self.span)]
        return [mean_of(name, how, each, better=self.better, span=self.span)]

    def _load(self) -> Any:
        import evaluate

        try:
            # In memory, since files of two evaluations at a time would lock each other.
            return evaluate.load(self.metric, config_name=self.config, keep_in_memory=True)
        except OSError as error:
            if Path(self.metric).exists():
                raise InputError(
                    f"the metric in {self.metric} cannot be loaded: {error}",
                    fix="give a folder with a script of the folder's name, as in my_f1/my_f1.py",
                ) from error
            raise EnvironmentFault(
                f"the metric {self.metric} is no folder here, and the hub cannot be reached or has none of that name",
                fix="give the path of a local copy of the metric's folder, or run where the hub can be reached",
            ) from error
        except ImportError as error:
            raise EnvironmentFault(
                f"the metric {self.metric} needs a package: {error}", fix="install it beside llmops"
            ) from error
        except ValueError as error:
            raise InputError(
                f"the metric {self.metric} cannot be loaded: {error}",
                fix="set `config` of the scorer `evaluate` to one it has",
            ) from error

    def _references(self, take: Take, several: bool, items: Sequence[Item] | Sequence[Answered]) -> list[list[Any]]:
        """Those of each item, as the metric takes them."""
        if not several and any(len(item.references) > 1 for item in items):
            raise InputError(
                f"the metric {self.metric} takes one reference per item, and some items have several",
                fix="give items one reference each, or use another metric",
            )
        return [[take(one, "reference") for one in item.references] for item in items]

    def _value(self, result: Any, items: int) -> float | list[float]:
        """The number asked for, or a list of one per item."""
        if self.field is None and len(result) != 1:
            raise InputError(
                f"the metric {self.metric} computes {', '.join(result)}", fix="name one of them as `field`"
            )
        field = next(iter(result)) if self.field is None else self.field
        if field not in result:
            raise InputError(
                f"the metric {self.metric} computes no {field!r}{nearest(field, result)}",
                fix=f"use one of: {', '.join(result)}",
            )
        found = result[field]
        found = found.tolist() if hasattr(found, "tolist") else found
        try:
            if isinstance(found, list | tuple) and len(found) == items:
                return [float(one) for one in found]
            return float(found)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{field!r} of the metric {self.metric} is {str(found)[:60]}, which is no number",
                fix="name a field that is one number, or one per item",
            ) from error

    def _alone(self, loaded: Any, answers: Sequence[Any], references: Sequence[Any]) -> list[float] | None:
        """What each item gets alone, None where the metric has no value of one item."""
        values = []
        for answer, reference in zip(answers, references, strict=True):
            value = self._tried(loaded, [answer], [reference])
            if value is None:
                return None
            values.append(value)
        return values

    def _tried(self, loaded: Any, answers: Sequence[Any], references: Sequence[Any]) -> float | None:
        """What these get together, None where the metric has no value of so few."""
        try:
            # Not `compute`, which writes and reads a table for each call.
            value = self._value(loaded._compute(predictions=answers, references=references, **self.settings), -1)
        except Exception:  # whatever code of others raises on items it was not made for
            return None
        return value if isinstance(value, float) and math.isfinite(value) else None

    def _is_mean_of_references(self, loaded: Any, references: Sequence[Sequence[Any]], several: bool) -> bool:
        """Whether the metric is a mean over items, where half of the answers are references drawn from other items.

        Only references are looked at, so that it is one and the same for all models on a suite; and several times,
        since by chance some other metric may equal a mean.
        """
        some = references[:_PROBE]
        wanted = list(some) if several else [one for (one,) in some]
        draw = random.Random(0)
        for _ in range(5):
            given = [(own if draw.random() < 0.5 else draw.choice(some))[0] for own in some]
            each = self._alone(loaded, given, wanted)
            value = self._tried(loaded, given, wanted)
            if each is None or value is None or not _same(value, each):
                return False
        return True


def _same(value: float, each: Sequence[float]) -> bool:
    return math.isclose(sum(each) / len(each), value, rel_tol=1e-6, abs_tol=1e-9)


def _features(loaded: Any, metric: str) -> tuple[Take, bool]:
    """How the metric takes a text, and whether it takes several references of an item.

    Raises:
        InputError: it takes something else than texts or numbers.
    """
    from datasets import Features, Sequence, Value

    every = [loaded.features] if isinstance(loaded.features, Features) else list(loaded.features)
    found: dict[bool, str] = {}
    for features in every:
        answer, reference = features.get("predictions"), features.get("references")
        several = isinstance(reference, Sequence)
        inner = reference.feature if several else reference
        if isinstance(answer, Value) and isinstance(inner, Value):
            found[several] = answer.dtype
    if not found:
        raise InputError(
            f"the metric {metric} takes something else than one text or number per answer and reference",
            fix="use a metric on texts, labels or numbers",
        )
    several = True in found
    kind = found[several]
    cast = int if kind.startswith(("int", "uint")) else float if kind.startswith("float") else str

    def take(text: str, what: str) -> Any:
        try:
            return cast(text)
        except ValueError as error:
            raise InputError(
                f"the {what} {text[:60]!r} is no {kind}, which the metric {metric} asks for",
                fix="measure such answers with `classes`, `number` or `regex`",
            ) from error

    return take, several


def _code_digest(loaded: Any) -> str:
    import inspect

    return digest_of(Path(inspect.getfile(type(loaded))).read_text(encoding="utf-8"))[:12]
