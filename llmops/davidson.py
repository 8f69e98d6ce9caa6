"""Fits of Davidson's model of paired comparisons with ties, many tables of results at a time.

With d = θᵢ − θⱼ + β of a model i shown first and a model j, the first wins, loses or ties in the proportions
e^(d/2) : e^(−d/2) : ν. The log-likelihood is concave in θ, log ν and β and known from how often each pair met, each
model's wins minus losses, the number of ties, and the wins of whoever was shown first.

Sources: Davidson 1970, JASA 65:317; Davidson & Beaver 1977, Biometrics 33:693 (β).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmops.stats import Values
from llmops.votes import Places

_STEPS = 60
_LONGEST = 2.0
"""Of one parameter in one step; a full Newton step far from the maximum may overshoot."""
_STILL = 1e-9
_FINITE = 20.0
"""Log-odds of half a billion: beyond what ratings can show, so it is on its way to infinity."""


@dataclass(frozen=True)
class Table:
    """Results of some tables of m models.

    Attributes:
        scores: `(some, m)` half of each model's wins minus losses.
        ties: `(some,)`; `firsts` half of the wins minus losses of whichever was shown first.
        met: `(some, m, m)` ratings with row shown first and column second; where order is not asked for, each pair may
            stand on either side of the diagonal.
    """

    scores: Values
    ties: Values
    firsts: Values
    met: Values


@dataclass(frozen=True)
class Fit:
    """Maxima of some likelihoods.

    Attributes:
        parameters: `(some, m + 2)`: θ with mean 0 in each group, log ν (−∞ without ties), β (0 if not asked for).
        moved: largest change of a parameter in the last step.
    """

    parameters: Values
    moved: Values


def fitted(table: Table, *, groups: Places, ties: bool, sides: bool, held: float, start: Values | None = None) -> Fit:
    """Strengths by Newton's method.

    Args:
        groups: `(m,)` number of the group of each model; between groups nothing was compared.
        ties: whether ν is fitted (there are ties), `sides` whether β is.
        held: as many wins and losses against a model of strength 0 are added to each model, so that every strength is
            finite (0: none, and the fit may then not stand still); log ν and β are held towards 0 alike.
        start: `(m + 2,)` where to start from.
    """
    some, m = table.scores.shape
    parameters = np.zeros((some, m + 2)) if start is None else np.tile(start, (some, 1))
    free = np.array([True] * m + [ties, sides])
    parameters[:, ~free] = 0.0
    if not ties:
        parameters[:, m] = -np.inf
    same = groups[:, None] == groups[None, :]
    moved = np.full(some, np.inf)
    for _ in range(_STEPS):
        gradient, curvature = _slopes(table, parameters, held, free)
        if not held:
            # Adding a number to a whole group changes nothing: without this the curvature has no inverse.
            curvature[:, :m, :m] += same
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        step *= np.minimum(1.0, _LONGEST / np.maximum(np.abs(step).max(1, keepdims=True), _LONGEST))
        parameters[:, free] += step[:, free]
        moved = np.abs(step).max(1)
        if (moved < _STILL).all():
            break
    for group in range(int(groups.max()) + 1):
        inside = np.flatnonzero(groups == group)
        parameters[:, inside] -= parameters[:, inside].mean(1, keepdims=True)
    return Fit(parameters, moved)


def standing_still(fit: Fit) -> bool:
    """Whether all maxima were reached at finite parameters."""
    finite = np.where(np.isneginf(fit.parameters), 0.0, fit.parameters)
    return bool((fit.moved < _STILL).all() and (np.abs(finite) < _FINITE).all())


def chances(differences: Values, log_nu: Values) -> tuple[Values, Values, Values]:
    """Of the first winning, tying and losing, at d and log ν of shapes that broadcast."""
    half = differences / 2
    top = np.maximum(np.abs(half), log_nu)
    win, tie, loss = np.exp(half - top), np.exp(log_nu - top), np.exp(-half - top)
    total = win + tie + loss
    return win / total, tie / total, loss / total


def _slopes(table: Table, parameters: Values, held: float, free: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Gradient `(some, m + 2)` of the log-likelihood and its curvature, minus the Hessian, `(some, m + 2, m + 2)`."""
    some, m = table.scores.shape
    theta, log_nu, beta = parameters[:, :m], parameters[:, m], parameters[:, m + 1]
    win, tie, loss = chances(theta[:, :, None] - theta[:, None, :] + beta[:, None, None], log_nu[:, None, None])
    # What d and log ν multiply in the log-likelihood of one result: ½, 0 or −½, and whether it is a tie.
    balance = (win - loss) / 2
    expected = table.met * balance
    spread = table.met * ((win + loss) / 4 - balance**2)
    with_tie = -table.met * balance * tie
    gradient, curvature = np.zeros((some, m + 2)), np.zeros((some, m + 2, m + 2))
    gradient[:, :m] = table.scores - expected.sum(2) + expected.sum(1)
    gradient[:, m] = table.ties - (table.met * tie).sum((1, 2))
    gradient[:, m + 1] = table.firsts - expected.sum((1, 2))
    both = spread + spread.transpose(0, 2, 1)
    curvature[:, :m, :m] = -both
    curvature[:, range(m), range(m)] += both.sum(2)
    curvature[:, :m, m] = curvature[:, m, :m] = with_tie.sum(2) - with_tie.sum(1)
    curvature[:, :m, m + 1] = curvature[:, m + 1, :m] = spread.sum(2) - spread.sum(1)
    curvature[:, m, m] = (table.met * tie * (1 - tie)).sum((1, 2))
    curvature[:, m, m + 1] = curvature[:, m + 1, m] = with_tie.sum((1, 2))
    curvature[:, m + 1, m + 1] = spread.sum((1, 2))
    if held:
        # log σ(x) + log σ(−x) of each parameter: a win and a loss against 0.
        lean = np.tanh(np.where(np.isneginf(parameters), 0.0, parameters) / 2)
        gradient -= held * lean
        curvature[:, range(m + 2), range(m + 2)] += held * (1 - lean**2) / 2
    gradient[:, ~free] = 0.0
    curvature[:, ~free, :] = 0.0
    curvature[:, :, ~free] = 0.0
    # So little that it moves no maximum, and enough that flat ground far out can still be left.
    ridge = 1e-12 * (1.0 + table.met.sum((1, 2)))
    curvature[:, range(m + 2), range(m + 2)] += ridge[:, None] + ~free
    return gradient, curvature
