"""What training minimises, one class a method: the loss of a pass as its share of the update's, and what is told of it.

The loop knows passes, processes and steps; an objective knows answers and pairs. Each method's class is filed under
its kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from llmops.catalog import Catalog
from llmops.finetune.distillation import Logits
from llmops.finetune.items import Items
from llmops.finetune.losses import step_scale
from llmops.finetune.method import SFT, Distill, Dpo, Kto, Orpo, Reward, Sft
from llmops.finetune.model import LossModel
from llmops.finetune.passes import Pass
from llmops.finetune.preference import dpo_losses, kto_losses, log_odds_ratio, reward_losses

Totals = Mapping[str, float]
"""What an update's sums are divided by, counted over all passes and processes; each process counts them alike."""


class Objective(ABC):
    """The loss of one update: a sum over its passes, on all processes, of what `loss` answers.

    Since every share is divided by totals of the whole update, how the update was split cannot be seen in it.

    Attributes:
        measures: names of what `loss` sums beside, each with what its sum is divided by.
    """

    measures: Mapping[str, str] = {}

    @abstractmethod
    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        """What the sums over these items are divided by."""

    @abstractmethod
    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        """This pass's share of the loss, and its sums for `measures` in float64, without a gradient.

        Args:
            known: what `measure` answered, summed over all measured passes.
        """

    def measure(self, model: nn.Module, one: Pass) -> Tensor:
        """Sums over a measured pass, in float64; made before any pass of the update has moved a weight."""
        raise NotImplementedError(f"{type(self).__name__} has no measured sequences")

    def report(self, sums: Sequence[float], totals: Totals) -> dict[str, float]:
        """What a reader is told, by name, from the sums over all passes and processes; of what was there."""
        named = zip(self.measures.items(), sums, strict=True)
        return {name: value / totals[by] for (name, by), value in named if totals[by]}


OBJECTIVES: Catalog[Any] = Catalog("objective")
"""By the method's kind: a function of the method that answers its `Objective`."""


def objective_of(method: Any) -> Objective:
    """The objective of a recipe's method."""
    made: Objective = OBJECTIVES[method.kind](method)
    return made


@OBJECTIVES.add("sft")
class Likelihood(Objective):
    """Mean negative log-likelihood of the trained tokens, in nats per token."""

    def __init__(self, method: Sft) -> None:
        self.method = method

    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        return {"labels": int(items.trained_counts[list(numbers)].sum())}

    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        return model(**one.inputs) * step_scale(int(totals["labels"])), known.new_zeros(0)


@OBJECTIVES.add("distill")
def _distilled(method: Distill) -> Objective:
    """On the teacher's answers alone a student trains as on any others."""
    return Likelihood(SFT) if method.logits is None else Alike(method.logits)


class Alike(Objective):
    """Distillation: the mean over trained tokens of `distillation_sums`, in nats per token.

    Attributes:
        teacher: to be set before the first pass.
    """

    measures: Mapping[str, str] = {"cross_entropy": "labels", "divergence": "labels"}

    def __init__(self, method: Logits) -> None:
        self.method = method
        self.teacher: LossModel | None = None

    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        return {"labels": int(items.trained_counts[list(numbers)].sum())}

    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        taught = self.teacher.teach(**one.inputs)
        sums = model(**one.inputs, taught=taught, logits=self.method)
        return sums[0] * step_scale(int(totals["labels"])), sums[1:].detach().double()


def log_probs(model: nn.Module, one: Pass) -> Tensor:
    """Log-probability of every label of a pass, `(trained,)`, in nats."""
    return -model(**one.inputs, each=True)


def by_sequence(each: Tensor, one: Pass) -> Tensor:
    """Sums of what each label has, by sequence: `(items, sequences of an item)`."""
    # In one order on every device, unlike an index_add on a GPU, so that a resumed run adds up alike.
    sums = torch.segment_reduce(each, "sum", lengths=one.labels, initial=0.0) if one.items else each
    return sums.reshape(one.items, one.together)


def kl_of_labels(log_ratios: Tensor) -> Tensor:
    """r − 1 − log r with r = π / π_ref, of each label: Schulman's estimator k3 of KL(π_ref ‖ π), never negative.

    Its mean is unbiased over tokens that the base drew, as it drew the answers that people rate; over answers of
    others it says how far the model has moved on those. The other direction, KL(π ‖ π_ref), would need tokens of the
    model as it is now: over rejected answers, which it gives up, its estimate is a few tokens' e^(−log r) alone.
    """
    return torch.expm1(log_ratios) - log_ratios


def preferred(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Sums over pairs, from rewards `(pairs,)`, for the measures `REWARDS`, in float64 and without a gradient."""
    chosen, rejected = chosen.detach().double(), rejected.detach().double()
    # A tie, as before the first update, is right half of the time.
    right = 0.5 + 0.5 * torch.sign(chosen - rejected)
    return torch.stack([right, chosen - rejected, chosen, rejected]).sum(dim=1)


REWARDS = dict.fromkeys(("accuracy", "margin", "chosen_reward", "rejected_reward"), "pairs")


def pair_totals(items: Items, numbers: Sequence[int]) -> Totals:
    """What sums over pairs, over their labels, and over those of their chosen answers are divided by."""
    labels = int(items.trained_counts[list(numbers)].sum())
    return {"pairs": len(numbers), "labels": labels, "chosen_labels": items.labels(numbers, 0)}


@OBJECTIVES.add("dpo")
class Preferred(Objective):
    """Direct preference optimisation: the mean over pairs of `dpo_losses`, and the chosen answers' likelihood beside.

    Rewards are β · log-ratios, as the paper's eq. 5 has them up to a term of the prompt alone.
    """

    measures: Mapping[str, str] = REWARDS | {"kl_k3_per_token": "labels"}

    def __init__(self, method: Dpo) -> None:
        self.method = method

    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        return pair_totals(items, numbers)

    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        each = log_probs(model, one)
        assert one.reference is not None
        ratios = each - one.reference
        chosen, rejected = by_sequence(ratios, one).unbind(1)
        chosen_tokens, rejected_tokens = one.labels.reshape(one.items, one.together).unbind(1)
        losses = dpo_losses(self.method, chosen, rejected, chosen_tokens=chosen_tokens, rejected_tokens=rejected_tokens)
        share = losses.sum() / totals["pairs"]
        if self.method.sft_weight:
            said = by_sequence(each, one)[:, 0].sum()
            share = share - self.method.sft_weight * said / totals["chosen_labels"]
        told = preferred(self.method.beta * chosen, self.method.beta * rejected)
        return share, torch.cat([told, kl_of_labels(ratios.detach().double()).sum()[None]])


@OBJECTIVES.add("orpo")
class Likelier(Objective):
    """Odds-ratio preference optimisation: the chosen answers' next-token loss and β times the odds ratio's.

    Rewards are β · mean log-probability per token.
    """

    measures: Mapping[str, str] = REWARDS

    def __init__(self, method: Orpo) -> None:
        self.method = method

    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        return pair_totals(items, numbers)

    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        said = by_sequence(log_probs(model, one), one)
        chosen, rejected = (said / one.labels.reshape(one.items, one.together)).unbind(1)
        odds = -logsigmoid(log_odds_ratio(chosen, rejected)).sum()
        share = self.method.beta * odds / totals["pairs"] - said[:, 0].sum() / totals["chosen_labels"]
        return share, preferred(self.method.beta * chosen, self.method.beta * rejected)


@OBJECTIVES.add("reward")
class Rewarded(Objective):
    """Reward modelling: the mean over pairs of `reward_losses`; the model answers with the reward of each sequence."""

    measures: Mapping[str, str] = REWARDS | {"mean_reward": "answers"}

    def __init__(self, method: Reward) -> None:
        self.method = method

    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        return {"pairs": len(numbers), "answers": 2 * len(numbers)}

    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        chosen, rejected = model(**one.inputs).reshape(one.items, 2).unbind(1)
        share = reward_losses(self.method, chosen, rejected, one.values).sum() / totals["pairs"]
        told = preferred(chosen, rejected)
        # Of the chosen and of the rejected answers together.
        return share, torch.cat([told, told[2:].sum()[None]])


@OBJECTIVES.add("kto")
class Wanted(Objective):
    """Kahneman-Tversky optimisation: the mean over answers of `kto_losses`.

    The reference point z is the mean log-ratio of mismatched answers over the whole update, at least 0 (sec. 4.1 of
    the paper); it is known before the first pass with a gradient, so that no split of the update can be seen in it.
    An answer is told right where its reward is on its label's side of β · z.
    """

    measures: Mapping[str, str] = {
        "accuracy": "rows",
        "chosen_reward": "wanted",
        "rejected_reward": "unwanted",
        "reference_point": "rows",
        "kl_k3_per_token": "labels",
    }

    def __init__(self, method: Kto) -> None:
        self.method = method

    def totals(self, items: Items, numbers: Sequence[int]) -> Totals:
        wanted = int(items.values(numbers).sum())
        return {
            "rows": len(numbers),
            "wanted": wanted,
            "unwanted": len(numbers) - wanted,
            "labels": int(items.trained_counts[list(numbers)].sum()),
        }

    def measure(self, model: nn.Module, one: Pass) -> Tensor:
        assert one.reference is not None
        return (log_probs(model, one) - one.reference).double().sum()[None]

    def loss(self, model: nn.Module, one: Pass, totals: Totals, known: Tensor) -> tuple[Tensor, Tensor]:
        assert one.reference is not None
        each = log_probs(model, one) - one.reference
        ratios = by_sequence(each, one)[:, 0]
        wanted = one.values > 0
        point = (known[0] / totals["rows"]).clamp(min=0.0).to(ratios.dtype)
        share = kto_losses(self.method, ratios, wanted, point).sum() / totals["rows"]
        gain = (ratios - point).detach().double()
        right = 0.5 + 0.5 * torch.sign(torch.where(wanted, gain, -gain))
        rewards = self.method.beta * ratios.detach().double()
        # Each pass says its part of the one point that all share.
        part = point.double() * one.items
        moved = kl_of_labels(each.detach().double()).sum()
        return share, torch.stack([right.sum(), rewards[wanted].sum(), rewards[~wanted].sum(), part, moved])

    def report(self, sums: Sequence[float], totals: Totals) -> dict[str, float]:
        told = super().report(sums, totals)
        if totals["wanted"] and totals["unwanted"]:
            told["margin"] = told["chosen_reward"] - told["rejected_reward"]
        return {name: told[name] for name in ("accuracy", "margin", *self.measures) if name in told}
