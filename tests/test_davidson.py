"""Davidson's likelihood is climbed along its own slopes, and made-up results are results like any other."""

from __future__ import annotations

import numpy as np
import pytest

from llmops.davidson import Table, chances, finite, fitted, padded, sides_tell
from llmops.stats import Values

ONE_GROUP = np.zeros(3, dtype=np.int64)
ROUND = np.array([[0, 6, 5], [4, 0, 7], [3, 8, 0]], dtype=float)


def table_from(wins: Values, ties: Values, losses: Values) -> Table:
    """From how often row, shown first, won against, tied with and lost to column; `(m, m)` each."""
    lead = wins - losses
    return Table(
        scores=(lead.sum(1) - lead.sum(0))[None] / 2,
        ties=np.array([ties.sum()]),
        firsts=np.array([lead.sum() / 2]),
        met=(wins + ties + losses)[None],
    )


def likelihood(wins: Values, ties: Values, losses: Values, theta: Values, log_nu: float, beta: float) -> float:
    won, tied, lost = chances(theta[:, None] - theta[None, :] + beta, np.float64(log_nu) * np.ones((3, 3)))
    return float((wins * np.log(won) + ties * np.log(tied) + losses * np.log(lost)).sum())


def test_chances_are_davidsons_and_sum_to_one_at_any_distance() -> None:
    # p : q : ν√(pq) for strengths p = 3, q = 1 and ν = 0.5.
    won, tied, lost = chances(np.log(np.array([3.0])), np.log(np.array([0.5])))
    assert np.array([won, tied, lost])[:, 0] == pytest.approx(np.array([3, 0.5 * 3**0.5, 1]) / (4 + 0.5 * 3**0.5))
    far = chances(np.array([1e4, -1e4]), np.array([-np.inf, 3.0]))
    assert sum(far) == pytest.approx(np.ones(2))


@pytest.mark.parametrize(("ties", "sides"), [(True, True), (True, False), (False, True), (False, False)])
def test_no_small_change_of_any_parameter_is_more_likely_than_the_fit(ties: bool, sides: bool) -> None:
    tied = ROUND.T / 2 if ties else np.zeros((3, 3))
    lost = ROUND.T + np.triu(np.ones((3, 3)), 1)
    found = fitted(table_from(ROUND, tied, lost), groups=ONE_GROUP, ties=ties, sides=sides, held=0.0)
    assert finite(found)
    theta, log_nu, beta = found.parameters[0, :3], float(found.parameters[0, 3]), float(found.parameters[0, 4])
    assert (log_nu == -np.inf) is not ties
    assert (beta == 0) is not sides
    if not ties:
        log_nu = -100.0  # as good as none, and its chance still has a logarithm
    best = likelihood(ROUND, tied, lost, theta, log_nu, beta)
    for by in (-1e-3, 1e-3):
        for place in range(3):
            moved = theta.copy()
            moved[place] += by
            assert likelihood(ROUND, tied, lost, moved, log_nu, beta) < best
        if ties:
            assert likelihood(ROUND, tied, lost, theta, log_nu + by, beta) < best
        if sides:
            assert likelihood(ROUND, tied, lost, theta, log_nu, beta + by) < best


def test_made_up_results_are_fitted_as_if_they_had_happened() -> None:
    # Model 0 met 1 and 2, who did not meet; row was always shown first, but 1 met 0 from both sides.
    wins, lost = np.zeros((3, 3)), np.zeros((3, 3))
    wins[0, 1], wins[0, 2], wins[1, 0], lost[1, 0] = 4, 3, 1, 1
    real = table_from(wins, np.zeros((3, 3)), lost)
    linked = real.met[0] > 0
    made = padded(real, np.array([[1.0, 2.0, 3.0]]), np.array([[0.5, 0.0, 1.0]]), linked=linked)
    # What i is made to win against j: half of i's share of wins per opponent and of j's share of losses.
    to = {(0, 1): (1 / 2 + 0) / 2, (1, 0): (2 + 0.5 / 2) / 2, (0, 2): (1 / 2 + 1) / 2, (2, 0): (3 + 0.5 / 2) / 2}
    for (winner, loser), number in to.items():
        for first, second in ((winner, loser), (loser, winner)):
            if linked[first, second]:
                part = number / (2 if linked[second, first] else 1)
                (wins if first == winner else lost)[first, second] += part
    written = table_from(wins, np.zeros((3, 3)), lost)
    for name in ("scores", "ties", "firsts", "met"):
        assert getattr(made, name) == pytest.approx(getattr(written, name))


def test_equal_shares_give_each_model_as_many_wins_and_losses() -> None:
    nothing = Table(np.zeros((1, 3)), np.zeros(1), np.zeros(1), np.zeros((1, 3, 3)))
    full = ~np.eye(3, dtype=bool)
    made = padded(nothing, np.full((1, 3), 0.5), np.full((1, 3), 0.5), linked=full)
    assert made.scores == pytest.approx(np.zeros((1, 3)))
    assert (made.met.sum(1) + made.met.sum(2)) == pytest.approx(np.ones((1, 3)))


def test_sides_tell_only_where_no_strengths_could_stand_for_them() -> None:
    def told(met: list[list[float]]) -> bool:
        return sides_tell(Table(np.zeros((1, 3)), np.zeros(1), np.zeros(1), np.array([met])), ONE_GROUP)

    assert not told([[0, 9, 9], [0, 0, 0], [0, 0, 0]])
    # 0 before 1, 1 before 2, 0 before 2: strengths one apart would make 0 and 2 two apart.
    assert told([[0, 9, 9], [0, 0, 9], [0, 0, 0]])
    assert not told([[0, 9, 0], [0, 0, 9], [0, 0, 0]])
    assert told([[0, 9, 0], [1, 0, 9], [0, 0, 0]])
