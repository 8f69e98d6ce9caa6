"""From summed statistics to a metric's value, for many sums at once: what makes resampling cheap.

A formula is named by a text that a report keeps, such as `mean` or `chrf:2`, so that a report read from its file can
be resampled and compared without its scorers. Each equals, sum by sum, what the library named in the metric's
signature computes; tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from llmops.stats import ValueOf, Values


def formula(name: str) -> ValueOf:
    """The function a formula's name stands for: sums `(…, k)` to values `(…)`.

    Raises:
        ValueError: no formula is called so.
    """
    kind, *arguments = name.split(":")
    if kind not in _FORMULAS:
        raise ValueError(f"no formula is called {name!r}")
    return partial(_FORMULAS[kind], *map(float, arguments)) if arguments else _FORMULAS[kind]


def ratio(scale: float, empty: float, sums: Values) -> Values:
    """`scale · a / b` of sums (a, b); `empty` where b is 0."""
    above, below = sums[..., 0], sums[..., 1]
    return np.where(below > 0, scale * above / np.where(below > 0, below, 1), empty)


def mean(sums: Values) -> Values:
    """Of sums (value, items); undefined over no items."""
    return ratio(1.0, np.nan, sums)


def whole(sums: Values) -> Values:
    """Of the sum over all items of (value / items, 1 / items) that value; undefined over any other number of them.

    For a number that was only ever computed on all items at once. A resample has as many items, which this cannot
    tell: `Metric.by_item` says what may not be resampled.
    """
    return np.where(np.abs(sums[..., 1] - 1) < 1e-9, sums[..., 0], np.nan)


def bleu(sums: Values) -> Values:
    """Corpus BLEU from (answer length, reference length, 4 × matched, 4 × possible n-grams), in points.

    The geometric mean of the four precisions times the brevity penalty (Papineni et al. 2002); an order without a
    match counts half, a quarter, … of one, as mteval-v13a has it (sacreBLEU's `exp`).
    """
    return np.where((sums[..., 6:10] > 0).all(-1), bleu_alone(sums), 0.0)


def bleu_alone(sums: Values) -> Values:
    """BLEU as `bleu`, of the orders that the answer is long enough for (sacreBLEU's `effective_order`).

    For one item alone: a sentence of three words has no 4-gram, which would make it 0 however good it is.
    """
    length, reference = sums[..., 0], sums[..., 1]
    matched, possible = sums[..., 2:6], sums[..., 6:10]
    missed = matched == 0
    smoothed = np.where(missed, 1.0 / 2.0 ** np.cumsum(missed, axis=-1), matched)
    there = possible > 0
    logs = np.where(there, np.log(smoothed / np.where(there, possible, 1)), 0.0)
    log_precision = logs.sum(-1) / np.maximum(there.sum(-1), 1)
    longer = np.where(length > 0, length, 1)
    penalty = np.where(length > 0, np.exp(np.minimum(0.0, 1.0 - reference / longer)), reference <= 0)
    return np.where(matched.sum(-1) > 0, 100.0 * penalty * np.exp(log_precision), 0.0)


def chrf(beta: float, sums: Values) -> Values:
    """chrF from (n-grams in the answer, in the reference, in both) of each order, in points.

    F_beta of precision and recall, each averaged over the orders that both texts have (Popović 2015).
    """
    orders = sums.reshape(*sums.shape[:-1], -1, 3)
    answer, reference, both = orders[..., 0], orders[..., 1], orders[..., 2]
    has = (answer > 0) & (reference > 0)
    number = np.maximum(has.sum(-1), 1)
    precision = np.where(has, both / np.where(answer > 0, answer, 1), 0).sum(-1) / number
    recall = np.where(has, both / np.where(reference > 0, reference, 1), 0).sum(-1) / number
    weight = beta**2
    below = weight * precision + recall
    return np.where(below > 0, 100 * (1 + weight) * precision * recall / np.where(below > 0, below, 1), 0.0)


def ter(sums: Values) -> Values:
    """TER from (edits, mean reference length), in points; 100 where there is no reference but an answer."""
    edits, words = sums[..., 0], sums[..., 1]
    return 100.0 * np.where(words > 0, edits / np.where(words > 0, words, 1), (edits > 0) * 1.0)


def perplexity(sums: Values) -> Values:
    """exp of nats per unit, from (nats, units); undefined over no units."""
    return np.exp(mean(sums))


def macro_f1(sums: Values) -> Values:
    """Mean over classes of F1, from (both, predicted, true) of each; a class nobody has or predicts is left out."""
    both, predicted, true = _classes(sums)
    return _over_classes(2 * both, predicted + true, predicted + true)


def macro_precision(sums: Values) -> Values:
    """As `macro_f1`, of precision, which is 0 for a class that is never predicted."""
    both, predicted, true = _classes(sums)
    return _over_classes(both, predicted, predicted + true)


def macro_recall(sums: Values) -> Values:
    """As `macro_f1`, of recall, which is 0 for a class that is only predicted."""
    both, predicted, true = _classes(sums)
    return _over_classes(both, true, predicted + true)


def _classes(sums: Values) -> tuple[Values, Values, Values]:
    classes = sums.reshape(*sums.shape[:-1], -1, 3)
    return classes[..., 0], classes[..., 1], classes[..., 2]


def _over_classes(above: Values, below: Values, there: Values) -> Values:
    """Mean of above / below over the classes that are there; undefined without any."""
    each = ratio(1.0, 0.0, np.stack([above, below], axis=-1))
    number = (there > 0).sum(-1)
    return np.where(number > 0, each.sum(-1) / np.maximum(number, 1), np.nan)


_FORMULAS: dict[str, Callable[..., Values]] = {
    "mean": mean,
    "ratio": ratio,
    "whole": whole,
    "bleu": bleu,
    "bleu_alone": bleu_alone,
    "chrf": chrf,
    "ter": ter,
    "perplexity": perplexity,
    "macro_f1": macro_f1,
    "macro_precision": macro_precision,
    "macro_recall": macro_recall,
}
