"""Preference losses equal the papers' formulas, written here as slow loops over pairs in 64 bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmops.finetune.method import Dpo, Kto, Reward
from llmops.finetune.objective import kl_of_labels
from llmops.finetune.preference import dpo_losses, kto_losses, log_odds_ratio, reward_losses

RATIO = st.floats(-60, 60)
TOKENS = st.integers(1, 500)
PAIRS = st.lists(st.tuples(RATIO, RATIO, TOKENS, TOKENS), min_size=1, max_size=6)
BETA = st.floats(0.01, 5)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def by_loop(method: Dpo, chosen: float, rejected: float, chosen_tokens: int, rejected_tokens: int) -> float:
    if method.loss != "sigmoid":
        chosen, rejected = chosen / chosen_tokens, rejected / rejected_tokens
    gain = chosen - rejected
    if method.loss == "ipo":
        return (gain - 0.5 / method.beta) ** 2
    right, wrong = log_sigmoid(method.beta * gain), log_sigmoid(-method.beta * gain)
    return -(1 - method.label_smoothing) * right - method.label_smoothing * wrong


@given(pairs=PAIRS, beta=BETA, loss=st.sampled_from(["sigmoid", "sigmoid_norm", "ipo"]), smoothing=st.floats(0, 0.49))
def test_dpo(pairs: list[tuple[float, float, int, int]], beta: float, loss: str, smoothing: float) -> None:
    smoothing = 0.0 if loss == "ipo" else smoothing
    method = Dpo.model_validate({"kind": "dpo", "beta": beta, "loss": loss, "label_smoothing": smoothing})
    chosen, rejected, chosen_tokens, rejected_tokens = (torch.tensor(part) for part in zip(*pairs, strict=True))
    got = dpo_losses(
        method,
        chosen.double(),
        rejected.double(),
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )
    # The tensors hold 32 bits of what was drawn; the loop reads the same numbers.
    wanted = [
        by_loop(method, float(chosen[place]), float(rejected[place]), pairs[place][2], pairs[place][3])
        for place in range(len(pairs))
    ]
    assert got.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@given(beta=BETA, smoothing=st.floats(0, 0.49), tokens=TOKENS)
def test_where_nothing_was_learned_dpo_is_ln_2(beta: float, smoothing: float, tokens: int) -> None:
    zero, count = torch.zeros(1), torch.tensor([tokens])
    method = Dpo(kind="dpo", beta=beta, label_smoothing=smoothing)
    loss = dpo_losses(method, zero, zero, chosen_tokens=count, rejected_tokens=count)
    assert float(loss) == pytest.approx(math.log(2), rel=1e-6)


@given(chosen=RATIO, rejected=RATIO, beta=BETA)
def test_the_gradient_of_dpo_is_that_of_the_paper(chosen: float, rejected: float, beta: float) -> None:
    """∂loss/∂r_c = −β σ(β (r_r − r_c)), and the opposite for r_r (Rafailov et al. 2023, sec. 4)."""
    ratios = torch.tensor([[chosen], [rejected]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1)
    dpo_losses(Dpo(kind="dpo", beta=beta), *ratios, chosen_tokens=one, rejected_tokens=one).sum().backward()
    slope = beta * sigmoid(beta * (rejected - chosen))
    assert ratios.grad is not None
    assert ratios.grad.flatten().tolist() == pytest.approx([-slope, slope], rel=1e-9, abs=1e-12)


@given(
    answers=st.lists(st.tuples(RATIO, st.booleans()), min_size=1, max_size=6),
    point=st.floats(0, 50),
    beta=BETA,
    weights=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
)
def test_kto(answers: list[tuple[float, bool]], point: float, beta: float, weights: tuple[float, float]) -> None:
    method = Kto(kind="kto", beta=beta, desirable_weight=weights[0], undesirable_weight=weights[1])
    ratios = torch.tensor([ratio for ratio, _ in answers], dtype=torch.float64)
    wanted = torch.tensor([label for _, label in answers])
    got = kto_losses(method, ratios, wanted, torch.tensor(point, dtype=torch.float64))
    loop = [
        weights[0] * (1 - sigmoid(beta * (ratio - point)))
        if label
        else weights[1] * (1 - sigmoid(beta * (point - ratio)))
        for ratio, label in answers
    ]
    assert got.tolist() == pytest.approx(loop, rel=1e-5, abs=1e-9)  # weights are held in 32 bits


@given(
    pairs=st.lists(st.tuples(st.floats(-40, 40), st.floats(-40, 40), st.floats(0, 3)), min_size=1, max_size=6),
    margin=st.floats(0, 3),
    centering=st.floats(0, 1),
)
def test_reward(pairs: list[tuple[float, float, float]], margin: float, centering: float) -> None:
    method = Reward(kind="reward", margin=margin, centering=centering)
    got = reward_losses(method, *(torch.tensor(part, dtype=torch.float64) for part in zip(*pairs, strict=True)))
    wanted = [-log_sigmoid(one - other - margin * far) + centering * (one + other) ** 2 for one, other, far in pairs]
    assert got.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@given(reward=st.floats(-40, 40))
def test_where_nothing_was_learned_the_reward_loss_is_ln_2(reward: float) -> None:
    same, none = torch.tensor([reward], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert float(reward_losses(Reward(kind="reward"), same, same, none)) == pytest.approx(math.log(2), rel=1e-9)


@given(chosen=st.floats(-20, -1e-3), rejected=st.floats(-20, -1e-3))
def test_the_odds_ratio_of_orpo(chosen: float, rejected: float) -> None:
    def odds(mean: float) -> float:
        return math.exp(mean) / -math.expm1(mean)

    got = log_odds_ratio(*torch.tensor([[chosen], [rejected]], dtype=torch.float64))
    assert float(got) == pytest.approx(math.log(odds(chosen) / odds(rejected)), rel=1e-6, abs=1e-9)


def test_an_answer_that_is_certain_has_finite_odds_and_a_finite_gradient() -> None:
    certain = torch.zeros(1, requires_grad=True)
    ratio = log_odds_ratio(certain, torch.tensor([-1.0]))
    ratio.backward()
    assert torch.isfinite(ratio).all()
    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_the_divergence_is_unbiased_over_tokens_that_the_reference_draws() -> None:
    """Σ π_ref(token) · k3(token) over a vocabulary is KL(π_ref ‖ π) by its definition; no token's k3 is below 0."""
    torch.manual_seed(0)
    reference, model = torch.randn(2, 50, dtype=torch.float64).log_softmax(-1)
    each = kl_of_labels(model - reference)
    assert float((reference.exp() * each).sum()) == pytest.approx(
        float((reference.exp() * (reference - model)).sum()), rel=1e-9
    )
    assert float(each.min()) >= 0
    assert float(kl_of_labels(torch.zeros(1))) == 0
