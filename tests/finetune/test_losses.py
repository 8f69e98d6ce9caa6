"""The chunked loss equals plain cross-entropy, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llmops.finetune.losses import loss_sum, step_scale, token_losses


def plain(hidden: Tensor, head: nn.Module, targets: Tensor, softcap: float | None = None) -> Tensor:
    logits = head(hidden).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def a_problem(
    tokens: int = 37, width: int = 24, vocabulary: int = 101, bias: bool = False
) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(3)
    hidden = torch.randn(tokens, width, requires_grad=True)
    head = nn.Linear(width, vocabulary, bias=bias)
    return hidden, head, torch.randint(0, vocabulary, (tokens,))


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_loss_and_gradients_equal_cross_entropy(chunk: int, bias: bool, softcap: float | None) -> None:
    hidden, head, targets = a_problem(bias=bias)
    expected = plain(hidden, head, targets, softcap)
    wanted = torch.autograd.grad(expected, [hidden, *head.parameters()])
    loss = loss_sum(hidden, head, targets, chunk=chunk, softcap=softcap)
    got = torch.autograd.grad(loss, [hidden, *head.parameters()])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_factor_that_arrives_in_the_backward_pass_scales_every_gradient() -> None:
    hidden, head, targets = a_problem()
    once = torch.autograd.grad(loss_sum(hidden, head, targets, chunk=8), [hidden, head.weight])
    scaled = torch.autograd.grad(loss_sum(hidden, head, targets, chunk=8) * 0.125, [hidden, head.weight])
    for one, other in zip(once, scaled, strict=True):
        torch.testing.assert_close(one * 0.125, other, rtol=1e-6, atol=1e-9)


def test_finite_differences_agree_with_the_gradient() -> None:
    hidden, head, targets = a_problem(tokens=4, width=6, vocabulary=11)
    head = head.double()
    hidden = hidden.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(hidden, head, targets), hidden)
    loss = loss_sum(hidden, head, targets, chunk=3)
    (got,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    hidden, head, targets = a_problem()
    head.weight.requires_grad_(False)
    loss_sum(hidden, head, targets, chunk=8).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_in_bfloat16_the_gradient_stays_within_its_rounding_of_float32() -> None:
    hidden, head, targets = a_problem(tokens=64, width=64)
    wanted = torch.autograd.grad(plain(hidden, head, targets), hidden)[0]
    low = hidden.detach().bfloat16().requires_grad_()
    got = torch.autograd.grad(loss_sum(low, head, targets, chunk=16), low)[0].float()
    assert (got - wanted).norm() / wanted.norm() < 0.01  # 8 bits of mantissa, errors that average out


@pytest.mark.parametrize("chunk", [1, 5, 37, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_loss_of_each_token_weighed_as_one_likes_has_the_gradients_of_cross_entropy(
    chunk: int, bias: bool, softcap: float | None
) -> None:
    hidden, head, targets = a_problem(bias=bias)
    factors = torch.randn(len(targets))
    logits = head(hidden).float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = nn.functional.cross_entropy(logits, targets, reduction="none")
    wanted = torch.autograd.grad((expected * factors).sum(), [hidden, *head.parameters()])
    losses = token_losses(hidden, head, targets, chunk=chunk, softcap=softcap)
    got = torch.autograd.grad((losses * factors).sum(), [hidden, *head.parameters()])
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_the_losses_of_all_tokens_add_up_to_the_sum_bit_for_bit_of_their_gradients(trained: bool) -> None:
    """One arithmetic: where every token weighs the same, both ways give the very same slopes."""
    hidden, head, targets = a_problem()
    head.weight.requires_grad_(trained)
    wrt = [hidden, *([head.weight] if trained else [])]
    of_sum = torch.autograd.grad(loss_sum(hidden, head, targets, chunk=8), wrt)
    of_each = torch.autograd.grad(token_losses(hidden, head, targets, chunk=8).sum(), wrt)
    assert all(torch.equal(one, other) for one, other in zip(of_sum, of_each, strict=True))


def test_no_trained_position_gives_no_losses_and_zero_gradients() -> None:
    hidden, head, _ = a_problem()
    losses = token_losses(hidden[:0], head, torch.empty(0, dtype=torch.long), chunk=8)
    losses.sum().backward()
    assert losses.shape == (0,)
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_no_trained_position_gives_zero_and_zero_gradients_so_that_every_process_takes_part() -> None:
    hidden, head, _ = a_problem()
    loss = loss_sum(hidden[:0], head, torch.empty(0, dtype=torch.long), chunk=8)
    loss.backward()
    assert loss.item() == 0.0
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_a_step_is_normalised_by_its_trained_tokens() -> None:
    assert step_scale(50) == 1 / 50
    with pytest.raises(ValueError, match="without trained tokens"):
        step_scale(0)


def test_shapes_that_differ_are_a_programming_error() -> None:
    hidden, head, targets = a_problem()
    with pytest.raises(ValueError, match="targets"):
        loss_sum(hidden, head, targets[:-1], chunk=8)
