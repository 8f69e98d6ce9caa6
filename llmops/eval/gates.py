"""What a gate asks of a model, as users write it in eval/gates/*.yaml: rules over the reports of its suites."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llmops.config import Settings
from llmops.errors import InputError, nearest
from llmops.records import ALIASES

EVERY = "*"


class OfSuite(Settings):
    """What every rule says: on which suite."""

    suite: Annotated[str, Field(min_length=1)]
    """Name of the suite (its `name`, not its file); `*` is every suite that is measured and has the rule's metric."""


class Rule(OfSuite):
    """A rule on a number of the suite's report."""

    metric: str | None = None
    """A scorer's metric, such as bleu or rougeL; give this or `measure`."""
    measure: str | None = None
    """Another number of the report; give this or `metric`. Latencies (latency_p50_ms, latency_p95_ms, latency_p99_ms),
    shares of answers (truncated_share, empty_share, refusal_share, toxic_share), means over them (tokens_mean,
    words_mean, repetition_mean: how much of an answer repeats runs of four words), and items_per_s, tokens_per_s."""
    per_slice: bool = False
    """Ask it of every slice of the suite too, not only of all items together."""
    judge_agreement_at_least: Annotated[float, Field(ge=-1, le=1)] | None = None
    """For a metric made by a judge: Cohen's kappa with people that the low end of its calibration's interval must
    reach, else the gate is refused; null takes what the suite's scorer says."""

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if (self.metric is None) == (self.measure is None):
            raise ValueError("give either `metric` or `measure`")
        if self.per_slice and self.measure is not None:
            raise ValueError("per_slice goes with a `metric`; a measure is taken over the whole suite")
        if self.judge_agreement_at_least is not None and self.measure is not None:
            raise ValueError("judge_agreement_at_least goes with a `metric` that a judge makes")
        return self

    @property
    def number(self) -> str:
        """What is looked at, as people write it."""
        return f"{self.suite} {self.metric or self.measure}"


class AtLeast(Rule):
    """The number must surely be this high."""

    at_least: float
    """Lowest value that passes, in the metric's own points."""


class AtMost(Rule):
    """The number must surely be this low."""

    at_most: float
    """Highest value that passes, in the metric's own points."""


class NoWorseBy(Rule):
    """On the same items, the model must surely lose less than this against the other one."""

    no_worse_by: NonNegativeFloat
    """Largest loss that passes, in the metric's own points; 0 asks that it is not worse at all."""


class BetterBy(Rule):
    """On the same items, the model must surely gain more than this over the other one."""

    better_by: NonNegativeFloat
    """Gain that must be passed, in the metric's own points; 0 asks that it is better at all."""


class Distance(Settings):
    """How far what is served may be from what was trained, along the model's own answers; give one or both."""

    kl: PositiveFloat | None = None
    """Largest KL divergence of the next token's distribution that passes, in nats a token."""
    flips: Annotated[PositiveFloat, Field(lt=1)] | None = None
    """Largest share (0 to 1) of tokens that passes where another token became the likeliest."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.bounds:
            raise ValueError("give `kl`, `flips` or both")
        return self

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that were given, by what they bound."""
        given = {"kl": self.kl, "flips": self.flips}
        return {number: bound for number, bound in given.items() if bound is not None}


class ServedEquals(OfSuite):
    """What vLLM serves must surely be what was trained: merged, adapter or quantized is measured, not assumed."""

    served_equals: Distance
    """Bounds on the distance of the two, read along the answers to the suite."""


class ChangedAtMost(OfSuite):
    """On the same items, the model must surely give nearly always the other one's very answer."""

    changed_at_most: Annotated[NonNegativeFloat, Field(lt=1)]
    """Largest share (0 to 1) of items that passes whose answer is another text; for suites at temperature 0."""


class WeightsAtMost(OfSuite):
    """The model's files of weights must be so much smaller than the other one's."""

    weights_at_most: PositiveFloat
    """Largest size that passes, as a share of the other's; the base of an adapter counts."""


class ContaminatedAtMost(OfSuite):
    """The model's training data must hardly hold the suite's items."""

    contaminated_at_most: Annotated[NonNegativeFloat, Field(lt=1)]
    """Largest share (0 to 1) of the suite's prompts that passes of which a training row has the whole prompt or 13
    words in a row; rows the data's checks dropped were not trained on and do not count."""


class GapAtMost(OfSuite):
    """The slices of a breakdown must surely lie close together: nobody is served much worse than others."""

    metric: str
    """A scorer's metric, such as exact_match."""
    between: str
    """The breakdown, a name under the suite's `slices`."""
    gap_at_most: NonNegativeFloat
    """Largest difference between any two of its slices that passes, in the metric's own points."""


_KINDS = (
    "at_least",
    "at_most",
    "no_worse_by",
    "better_by",
    "gap_at_most",
    "served_equals",
    "contaminated_at_most",
    "changed_at_most",
    "weights_at_most",
)


def _kind(value: Any) -> str | None:
    """Which rule a mapping is, by the one key that only it has, or by a key that is nearly that."""
    given = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    exact = [kind for kind in _KINDS if kind in given]
    near = [kind for key in given for kind in get_close_matches(str(key), _KINDS, n=1)]
    return f"<{(exact + near)[0]}>" if exact or near else None


AnyRule = Annotated[
    Annotated[AtLeast, Tag("<at_least>")]
    | Annotated[AtMost, Tag("<at_most>")]
    | Annotated[NoWorseBy, Tag("<no_worse_by>")]
    | Annotated[BetterBy, Tag("<better_by>")]
    | Annotated[GapAtMost, Tag("<gap_at_most>")]
    | Annotated[ServedEquals, Tag("<served_equals>")]
    | Annotated[ContaminatedAtMost, Tag("<contaminated_at_most>")]
    | Annotated[ChangedAtMost, Tag("<changed_at_most>")]
    | Annotated[WeightsAtMost, Tag("<weights_at_most>")],
    Discriminator(
        _kind,
        custom_error_type="no_bound",
        custom_error_message=f"a rule needs one of {', '.join(_KINDS)}",
    ),
]

COMPARING = (NoWorseBy, BetterBy, ChangedAtMost, WeightsAtMost)
"""Rules that need another model."""


class Gate(Settings):
    against: str | None = None
    """Model version to compare with, by alias or number; null, or an alias that none has yet, leaves only the
    rules with a fixed bound."""
    confidence: Annotated[PositiveFloat, Field(ge=0.5, lt=1)] = 0.95
    """How sure a pass must be: the whole interval of this confidence lies on the right side."""
    rules: Annotated[list[AnyRule], Field(min_length=1)]
    """All of them must hold."""

    @field_validator("against")
    @classmethod
    def _named(cls, against: str | None) -> str | None:
        if against is not None and not against.strip():
            raise ValueError("name an alias or a version, or write null")
        # An alias that none has yet is no fault, so a misspelt one would silently leave out the rules that compare.
        if against is not None and against not in ALIASES and (near := nearest(against, ALIASES)):
            raise ValueError(f"no alias of ours{near}")
        return against

    @field_validator("rules")
    @classmethod
    def _something_to_compare_with(cls, rules: list[AnyRule], others: ValidationInfo) -> list[AnyRule]:
        for number, rule in enumerate(rules):
            if isinstance(rule, COMPARING) and others.data.get("against", "faulty") is None:
                raise ValueError(f"entry {number} compares two models; say with `against` which the other one is")
        return rules


def over_suites(gate: Gate, metrics: Mapping[str, Collection[str]]) -> Gate:
    """The gate with every rule of `*` written out for each suite that has its metric.

    Args:
        metrics: names of the metrics of each suite, by the suite's name.

    Raises:
        InputError: no rule is left.
    """
    rules = [one for rule in gate.rules for one in _over_suites(rule, metrics)]
    if not rules:
        raise InputError(
            "none of the gate's rules is on what is measured here",
            fix=f"give it a rule on one of: {', '.join(sorted({name for one in metrics.values() for name in one}))}",
        )
    return gate.model_copy(update={"rules": rules})


def _over_suites(rule: AnyRule, metrics: Mapping[str, Collection[str]]) -> list[AnyRule]:
    if rule.suite != EVERY:
        return [rule]
    metric = getattr(rule, "metric", None)
    return [
        rule.model_copy(update={"suite": suite})
        for suite, known in metrics.items()
        if metric is None or metric in known
    ]
