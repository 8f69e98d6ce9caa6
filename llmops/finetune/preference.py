"""The losses of preference methods, from numbers of whole answers alone; each says its formula and source.

A log-ratio is log π(y|x) − log π_ref(y|x): a sum over the answer's tokens, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmops.finetune.method import Dpo, Kto, Reward


def dpo_losses(
    method: Dpo, chosen: Tensor, rejected: Tensor, *, chosen_tokens: Tensor, rejected_tokens: Tensor
) -> Tensor:
    """The loss of each pair, `(pairs,)`, its SFT term left out.

    sigmoid       −log σ(β (r_c − r_r))                               Rafailov et al. 2023, eq. 7
    sigmoid_norm  the same of r / tokens                              Meng et al. 2024, arXiv:2405.14734, with π_ref
    ipo           (r_c / tokens_c − r_r / tokens_r − 1 / (2β))²       Azar et al. 2023, eq. 17, per token

    Label smoothing ε takes the wrong order for true with probability ε: (1 − ε) · loss(Δ) + ε · loss(−Δ)
    (Mitchell 2023, cDPO).

    Args:
        chosen, rejected: `(pairs,)` log-ratios of the answers.
        chosen_tokens, rejected_tokens: `(pairs,)` labels of the answers.
    """
    if method.loss != "sigmoid":
        chosen, rejected = chosen / chosen_tokens, rejected / rejected_tokens
    gain = chosen - rejected
    if method.loss == "ipo":
        return (gain - 1 / (2 * method.beta)) ** 2
    smoothing = method.label_smoothing
    losses = -(1 - smoothing) * logsigmoid(method.beta * gain)
    return losses - smoothing * logsigmoid(-method.beta * gain) if smoothing else losses


def reward_losses(method: Reward, chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    """−log σ(r_c − r_r − μ m) + κ (r_c + r_r)² of each pair, `(pairs,)`.

    Bradley and Terry 1952, with a margin as in Touvron et al. 2023, eq. 2, centred as in Eisenstein et al. 2023, eq. 2.

    Args:
        chosen, rejected: `(pairs,)` rewards r.
        margins: `(pairs,)` what the rows say; times the method's `margin` μ.
    """
    losses = -logsigmoid(chosen - rejected - method.margin * margins)
    return losses + method.centering * (chosen + rejected) ** 2 if method.centering else losses


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """log (odds(y_c|x) / odds(y_r|x)) with odds = P / (1 − P) and P = exp(mean log-probability of the answer's tokens).

    Hong et al. 2024, eq. 4 to 7; ORPO's loss is −log σ of it.

    Args:
        chosen, rejected: `(pairs,)` mean log-probabilities per token. An answer the model is sure of beyond the last
            digit of float32 counts as one it is sure of up to that.
    """
    sure = -torch.finfo(torch.float32).eps
    return (chosen - rejected) - (_log_complement(chosen.clamp(max=sure)) - _log_complement(rejected.clamp(max=sure)))


def _log_complement(log_p: Tensor) -> Tensor:
    """log (1 − p) from log p < 0."""
    return torch.log(-torch.expm1(log_p))


def kto_losses(method: Kto, log_ratios: Tensor, wanted: Tensor, point: Tensor) -> Tensor:
    """λ_w (1 − σ(β (r − z))) of a wanted answer, λ_u (1 − σ(β (z − r))) of an unwanted one.

    Ethayarajh et al. 2024, eq. 7 and 8, without the constant λ_y.

    Args:
        log_ratios: `(answers,)` r.
        wanted: `(answers,)` true or false.
        point: z, the reference point: how far the model has moved on the whole, in nats, at least 0.
    """
    gain = torch.where(wanted, log_ratios - point, point - log_ratios)
    weights = torch.where(wanted, method.desirable_weight, method.undesirable_weight)
    return weights * (1 - torch.sigmoid(method.beta * gain))
