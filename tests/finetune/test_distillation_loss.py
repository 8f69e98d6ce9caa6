"""The chunked distillation loss equals a slow loop, torch's divergence and TRL's, in value and in every gradient."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from llmops.finetune.distillation import Logits
from llmops.finetune.distillation_loss import Taught, distillation_sums
from llmops.finetune.losses import loss_sum

Direction = Literal["forward", "reverse"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")


def a_problem(
    tokens: int = 37, vocabulary: int = 101, teachers: int | None = None, bias: bool = False, seed: int = 3
) -> tuple[Tensor, nn.Linear, Tensor, Taught]:
    """Hidden states, output layer and targets of a student, and a wider teacher of them."""
    torch.manual_seed(seed)
    hidden = torch.randn(tokens, 24, requires_grad=True)
    head = nn.Linear(24, vocabulary, bias=bias)
    taught = Taught(torch.randn(tokens, 40), nn.Linear(40, teachers or vocabulary, bias=False), None)
    return hidden, head, torch.randint(0, vocabulary, (tokens,)), taught


def dense(
    hidden: Tensor, head: nn.Module, targets: Tensor, taught: Taught, method: Logits, softcap: float | None = None
) -> Tensor:
    """The same with all logits at once, torch's own divergence and its own gradients."""
    logits, told = head(hidden), taught.head(taught.hidden).detach()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    both = min(logits.shape[1], told.shape[1])
    log_p = log_softmax(logits[:, :both] / method.temperature, -1)
    log_q = log_softmax(told[:, :both] / method.temperature, -1)
    one, other = (log_p, log_q) if method.divergence == "forward" else (log_q, log_p)
    divergence = kl_div(one, other, reduction="sum", log_target=True)
    said = cross_entropy(logits, targets, reduction="sum")
    return torch.stack(
        [(1 - method.alpha) * said + method.alpha * method.temperature**2 * divergence, said, divergence]
    )


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
@pytest.mark.parametrize("divergence", DIRECTIONS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({}, id="plain"),
        pytest.param({"bias": True}, id="an output layer with bias"),
        pytest.param({"softcap": 3.0}, id="squashed logits"),
        pytest.param({"teachers": 128}, id="a teacher whose matrix is filled up further"),
        pytest.param({"teachers": 96}, id="a teacher whose matrix is shorter"),
    ],
)
def test_values_and_gradients_are_those_of_torch(chunk: int, divergence: Direction, shape: dict[str, Any]) -> None:
    softcap = shape.get("softcap")
    hidden, head, targets, taught = a_problem(**{key: value for key, value in shape.items() if key != "softcap"})
    method = Logits(alpha=0.7, temperature=1.7, divergence=divergence)
    expected = dense(hidden, head, targets, taught, method, softcap)
    wanted = torch.autograd.grad(expected[0], [hidden, *head.parameters()])
    found = distillation_sums(hidden, head, targets, taught, method, chunk=chunk, softcap=softcap)
    got = torch.autograd.grad(found[0], [hidden, *head.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in taught.head.parameters())


@settings(max_examples=25)
@given(
    alpha=st.floats(0.01, 1.0),
    temperature=st.floats(0.5, 8.0),
    divergence=st.sampled_from(DIRECTIONS),
    seed=st.integers(0, 1000),
)
def test_it_is_the_papers_formula_in_a_slow_loop(
    alpha: float, temperature: float, divergence: Direction, seed: int
) -> None:
    """In float64, one token of the vocabulary after another."""
    hidden, head, targets, taught = a_problem(tokens=5, vocabulary=7, seed=seed)
    method = Logits(alpha=alpha, temperature=temperature, divergence=divergence)
    said = distance = 0.0
    for row in range(5):
        ours = [float(one) for one in head.double()(hidden[row].double()).detach()]
        theirs = [float(one) for one in taught.head.double()(taught.hidden[row].double()).detach()]
        said -= ours[int(targets[row])] - math.log(sum(math.exp(one) for one in ours))
        p, q = ([math.exp(one / temperature) for one in logits] for logits in (ours, theirs))
        p, q = [one / sum(p) for one in p], [one / sum(q) for one in q]
        first, second = (q, p) if divergence == "forward" else (p, q)
        distance += sum(one * math.log(one / other) for one, other in zip(first, second, strict=True))
    head.float(), taught.head.float()
    loss, said_found, distance_found = distillation_sums(hidden, head, targets, taught, method, chunk=2).tolist()
    assert said_found == pytest.approx(said, rel=1e-5)
    assert distance_found == pytest.approx(distance, rel=1e-4, abs=1e-5)
    assert loss == pytest.approx((1 - alpha) * said + alpha * temperature**2 * distance, rel=1e-4)


@pytest.mark.filterwarnings("ignore")  # TRL's own, of which vLLM it was tried with
@pytest.mark.parametrize(("divergence", "beta"), [("forward", 0.0), ("reverse", 1.0)])
def test_the_divergence_is_that_of_trls_trainer(divergence: Direction, beta: float) -> None:
    """Its beta 0 is KL(teacher ‖ student), its beta 1 the reverse; labels of -100 are not trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd import GKDTrainer

    hidden, head, targets, taught = a_problem()
    method = Logits(alpha=1.0, temperature=2.5, divergence=divergence)
    labels = torch.where(torch.arange(37) < 30, targets, -100)[None]
    theirs = GKDTrainer.generalized_jsd_loss(
        head(hidden)[None], taught.head(taught.hidden)[None], labels, beta=beta, temperature=2.5, num_items_in_batch=30
    )
    trained = Taught(taught.hidden[:30], taught.head, None)
    ours = distillation_sums(hidden[:30], head, targets[:30], trained, method, chunk=7)
    assert float(ours[2]) / 30 == pytest.approx(float(theirs), rel=1e-5)
    assert float(ours[0]) / 30 == pytest.approx(2.5**2 * float(theirs), rel=1e-5)


@pytest.mark.parametrize("divergence", DIRECTIONS)
def test_a_teacher_who_is_the_student_pulls_nowhere(divergence: Direction) -> None:
    hidden, head, targets, _ = a_problem()
    method = Logits(alpha=1.0, divergence=divergence)
    same = Taught(hidden.detach(), head, None)
    sums = distillation_sums(hidden, head, targets, same, method, chunk=8)
    (pull,) = torch.autograd.grad(sums[0], hidden)
    assert float(sums[2]) == pytest.approx(0, abs=1e-5)
    assert float(pull.abs().max()) < 1e-6


def test_its_cross_entropy_is_the_plain_loss() -> None:
    hidden, head, targets, taught = a_problem()
    sums = distillation_sums(hidden, head, targets, taught, Logits(alpha=0.3), chunk=8)
    assert float(sums[1]) == pytest.approx(float(loss_sum(hidden, head, targets, chunk=8)), rel=1e-6)


def test_the_factor_that_arrives_scales_every_gradient_and_the_other_sums_have_none() -> None:
    hidden, head, targets, taught = a_problem()

    def gradients(factor: float, others: float) -> tuple[Tensor, ...]:
        sums = distillation_sums(hidden, head, targets, taught, Logits(), chunk=8)
        return torch.autograd.grad(sums[0] * factor + sums[1:].sum() * others, [hidden, head.weight])

    for one, other in zip(gradients(1.0, 0.0), gradients(0.125, 3.0), strict=True):
        torch.testing.assert_close(one * 0.125, other, rtol=1e-6, atol=1e-9)


def test_without_a_trained_token_the_sums_are_zero_and_so_is_the_gradient() -> None:
    hidden, head, targets, taught = a_problem()
    none = Taught(taught.hidden[:0], taught.head, None)
    sums = distillation_sums(hidden[:0], head, targets[:0], none, Logits(), chunk=8)
    (pull,) = torch.autograd.grad(sums[0], head.weight)
    assert sums.tolist() == [0.0, 0.0, 0.0]
    assert not pull.any()


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    hidden, head, targets, taught = a_problem()
    with pytest.raises(ValueError, match="36 hidden states, 37 of the teacher and 37 targets"):
        distillation_sums(hidden[:36], head, targets, taught, Logits(), chunk=8)
