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
_FLAT = 1e-10
"""Curvature per rating: far below one rating among a million, far above a rounding error."""


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
        held: what log ν and β are held towards 0 by, as by so many results either way; 0 leaves them free.
        start: `(m + 2,)` where to start from.
    """
    some, m = table.scores.shape
    parameters = np.zeros((some, m + 2)) if start is None else np.tile(start, (some, 1))
    free = np.array([True] * m + [ties, sides])
    parameters[:, ~free] = 0.0
    if not ties:
        parameters[:, m] = -np.inf
    moved = np.full(some, np.inf)
    for _ in range(_STEPS):
        gradient, curvature = _slopes(table, parameters, groups, held, free)
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


def finite(fit: Fit) -> bool:
    """Whether all maxima were reached, at finite parameters."""
    known = np.where(np.isneginf(fit.parameters), 0.0, fit.parameters)
    return bool((fit.moved < _STILL).all() and (np.abs(known) < _FINITE).all())


def sides_tell(table: Table, groups: Places) -> bool:
    """Whether β can be told from strengths, in one table: not where a model was always shown first, for it may owe its
    wins to that."""
    m = table.scores.shape[1]
    free = np.array([True] * m + [False, True])
    _, curvature = _slopes(table, np.array([[0.0] * m + [-np.inf, 0.0]]), groups, 0.0, free)
    return bool(np.linalg.eigvalsh(curvature).min() > _FLAT * (1.0 + table.met.sum()))


def padded(table: Table, wins: Values, losses: Values, *, linked: NDArray[np.bool_]) -> Table:
    """Results with some made-up ones of each model, spread evenly over those it was compared with.

    Args:
        wins, losses: `(some, m)` each model's own share; what is made up for its opponents comes on top, and the two
            are halved, so that equal shares are what each model gets.
        linked: `(m, m)` which were compared in this order at all.
    """
    either = linked | linked.T
    opponents = np.maximum(either.sum(1), 1)
    orders = np.maximum(linked.astype(np.float64) + linked.T, 1.0)
    beats = either * ((wins / opponents)[:, :, None] + (losses / opponents)[:, None, :]) / 2
    beaten = beats.transpose(0, 2, 1)
    return Table(
        scores=table.scores + (beats - beaten).sum(2) / 2,
        ties=table.ties,
        firsts=table.firsts + (linked * (beats - beaten) / orders).sum((1, 2)) / 2,
        met=table.met + linked * (beats + beaten) / orders,
    )


def chances(differences: Values, log_nu: Values) -> tuple[Values, Values, Values]:
    """Of the first winning, tying and losing, at d and log ν of shapes that broadcast."""
    half = differences / 2
    top = np.maximum(np.abs(half), log_nu)
    win, tie, loss = np.exp(half - top), np.exp(log_nu - top), np.exp(-half - top)
    total = win + tie + loss
    return win / total, tie / total, loss / total


def _slopes(
    table: Table, parameters: Values, groups: Places, held: float, free: NDArray[np.bool_]
) -> tuple[Values, Values]:
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
        # log σ(x) + log σ(−x): a result either way, where 0 makes both as likely.
        lean = np.tanh(np.where(np.isneginf(parameters[:, m:]), 0.0, parameters[:, m:]) / 2)
        gradient[:, m:] -= held * lean
        curvature[:, [m, m + 1], [m, m + 1]] += held * (1 - lean**2) / 2
    # Adding a number to a whole group changes nothing: without this the curvature has no inverse.
    curvature[:, :m, :m] += groups[:, None] == groups[None, :]
    gradient[:, ~free] = 0.0
    curvature[:, ~free, :] = 0.0
    curvature[:, :, ~free] = 0.0
    # So little that it moves no maximum, and enough that flat ground far out can still be left.
    ridge = 1e-12 * (1.0 + table.met.sum((1, 2)))
    curvature[:, range(m + 2), range(m + 2)] += ridge[:, None] + ~free
    return gradient, curvature
