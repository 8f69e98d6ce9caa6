"""How a model is trained, as a recipe's `method:` says it: the kinds, what rows each takes, what a row becomes.

Knows nothing of torch; the arithmetic of each kind is in `objective.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from llmops.config import Settings
from llmops.finetune.distillation import Answers, EndpointTeacher, Logits, Teacher
from llmops.finetune.reinforcement import ScorerReward


@dataclass(frozen=True, slots=True)
class Item:
    """What one row becomes: its sequences in the order they are kept, by the forward pass they are computed in.

    Attributes:
        name: of this shape; stores of tokens are shared by the methods whose items have one name.
        trained: sequences with a gradient, all in one pass.
        measured: sequences computed beforehand and without a gradient, all in one pass.
    """

    name: str
    trained: tuple[str, ...]
    measured: tuple[str, ...] = ()

    @property
    def sequences(self) -> int:
        """How many sequences an item has."""
        return len(self.trained) + len(self.measured)

    @property
    def widest(self) -> int:
        """The most sequences of one item that are in a pass together."""
        return max(len(self.trained), len(self.measured))


ANSWER = Item("answer", ("answer",))
PAIR = Item("pair", ("chosen", "rejected"))
LABELLED = Item("labelled", ("answer",), measured=("mismatched",))
"""An answer, and behind its prompt another row's, by which KTO knows how far the model has moved on the whole."""


# Each kind says of itself, beside its keys: which kinds of rows it trains on (`records.Row`), what a row becomes,
# whether it needs log-probabilities of the untrained base, and what its loss is counted in.


class Sft(Settings):
    """Supervised fine-tuning: next-token loss on assistant turns, or on all of a plain text."""

    rows: ClassVar[tuple[str, ...]] = ("messages", "text")
    item: ClassVar[Item] = ANSWER
    reference: ClassVar[bool] = False
    unit: ClassVar[str] = "nats per token"

    kind: Literal["sft"] = "sft"
    neftune: NonNegativeFloat = 0.0
    """Noise added to the embeddings while training (NEFTune's alpha; papers use 5 to 15); 0 adds none."""


class Dpo(Settings):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): the chosen answer gains on the rejected
    one, relative to what the base thinks of both."""

    rows: ClassVar[tuple[str, ...]] = ("preference",)
    item: ClassVar[Item] = PAIR
    reference: ClassVar[bool] = True
    unit: ClassVar[str] = "per pair"

    kind: Literal["dpo"]
    beta: PositiveFloat = 0.1
    """How dear it is to leave the base: small lets the model go far (papers use 0.01 to 0.5)."""
    loss: Literal["sigmoid", "sigmoid_norm", "ipo"] = "sigmoid"
    """`sigmoid` is the paper's; `sigmoid_norm` takes log-probabilities per token, so that length earns nothing (beta is
    then 2 or more); `ipo` aims at a margin of 1 / (2 · beta) per token instead of an endless one (arXiv:2310.12036)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs taken to be labelled the wrong way round (cDPO); the two sigmoid losses have it."""
    sft_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' own next-token loss beside it, which keeps them likely (RPO's alpha)."""


class Orpo(Settings):
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): supervised fine-tuning on the chosen
    answer that makes the rejected one less likely; there is no reference, so the base need not know the task yet."""

    rows: ClassVar[tuple[str, ...]] = ("preference",)
    item: ClassVar[Item] = PAIR
    reference: ClassVar[bool] = False
    unit: ClassVar[str] = "nats per token and odds ratio"

    kind: Literal["orpo"]
    beta: PositiveFloat = 0.1
    """Weight of the odds ratio beside the next-token loss of the chosen answers (the paper's lambda)."""


class Reward(Settings):
    """Reward modelling (Bradley-Terry): the base learns to give an answer a number, the chosen one a higher one than
    the rejected one. What is left is no model that answers: suites score answers with it, as `reward: {model: …}`."""

    rows: ClassVar[tuple[str, ...]] = ("preference",)
    item: ClassVar[Item] = PAIR
    reference: ClassVar[bool] = False
    unit: ClassVar[str] = "nats per pair"

    kind: Literal["reward"]
    margin: NonNegativeFloat = 0.0
    """Times the rows' `margin`, by how much the chosen answer should be ahead, in nats (arXiv:2307.09288 takes margins
    up to 1 or 3); 0 asks only that it is ahead, and then no source names a `margin`."""
    centering: NonNegativeFloat = 0.0
    """Weight of the squared sum of a pair's two rewards (arXiv:2312.09244), which holds rewards near zero, so that
    those of different prompts compare; 0.01 is usual. 0 leaves open where zero is."""


class Kto(Settings):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): single answers that were wanted or
    not, each measured against how far the model has moved on the whole."""

    rows: ClassVar[tuple[str, ...]] = ("labelled",)
    item: ClassVar[Item] = LABELLED
    reference: ClassVar[bool] = True
    unit: ClassVar[str] = "per answer"

    kind: Literal["kto"]
    beta: PositiveFloat = 0.1
    """How dear it is to leave the base: small lets the model go far."""
    desirable_weight: PositiveFloat = 1.0
    """Weight of wanted answers; with n wanted and m unwanted ones, n · weight : m · weight is best 1 to 4/3 (eq. 8)."""
    undesirable_weight: PositiveFloat = 1.0
    """Weight of unwanted answers."""


class Distill(Settings):
    """A model learns from a larger one: from the answers it writes, from its distribution over next tokens, or both."""

    rows: ClassVar[tuple[str, ...]] = ("messages", "text", "preference", "labelled")
    item: ClassVar[Item] = ANSWER
    reference: ClassVar[bool] = False
    unit: ClassVar[str] = "nats per token"

    kind: Literal["distill"]
    teacher: Teacher
    """Who is learned from: `{model: …}` on this machine, or `{endpoint: …, model: …}` that someone serves."""
    answers: Answers | None = None
    """How the teacher answers the prompts of the rows; null trains on the answers that stand in the rows."""
    logits: Logits | None = None
    """How the teacher's distributions count; null learns from the tokens alone. The teacher is then a model on this
    machine with the same tokenizer, and is held beside the student while it trains."""

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if self.answers is None and self.logits is None:
            raise ValueError("the teacher teaches nothing; give `answers: {}`, `logits: {}` or both")
        if self.logits is not None and isinstance(self.teacher, EndpointTeacher):
            raise ValueError("logits: an endpoint gives no distributions; name a teacher on this machine: {model: …}")
        return self


class Grpo(Settings):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): the model answers each prompt several
    times, and what scored above its group's mean becomes likelier.

    TRL's trainer does it (`pip install 'llmops[grpo]'`), in one process. It saves nothing on the way: an interrupted
    run begins anew. Rows are asked their prompts; their completions are the references that scorers compare with.
    """

    rows: ClassVar[tuple[str, ...]] = ("messages",)
    item: ClassVar[Item] = ANSWER
    reference: ClassVar[bool] = False
    unit: ClassVar[str] = "clipped advantage, negative"

    kind: Literal["grpo"]
    rewards: Annotated[list[ScorerReward], Field(min_length=1)]
    """What an answer earns: the weighted sum of these."""
    generations: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt, compared with each other; `batch.sequences` is a multiple of it."""
    max_tokens: PositiveInt = 256
    """Longest answer in tokens."""
    temperature: PositiveFloat = 1.0
    """How differently the answers to one prompt are drawn."""
    beta: NonNegativeFloat = 0.0
    """Price of leaving the base, per nat of KL; above 0 with full fine-tuning the base is held a second time."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far one answer's probability ratio may move the model before it is clipped."""
    iterations: PositiveInt = 1
    """Updates on each set of answers; more than one saves generation and leans on the clipping."""
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """How tokens are averaged: `dapo` over all of an update (arXiv:2503.14476), `grpo` first over each answer, which
    favours short ones, `dr_grpo` over `max_tokens` (arXiv:2503.20783), `bnpo` over each pass."""
    scale: Literal["group", "batch", "none"] = "group"
    """What a reward's distance from its group's mean is divided by: the group's deviation, the batch's, nothing."""
    generate: Literal["auto", "vllm", "transformers"] = "auto"
    """What answers while training: `auto` takes vLLM beside the model on a GPU where it is installed."""
    vllm_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the GPU that vLLM takes; it takes it where it answers."""


SFT = Sft()
AnyMethod = Sft | Dpo | Orpo | Kto | Reward | Distill | Grpo
Method = Annotated[AnyMethod, Field(discriminator="kind")]
METHODS: tuple[type[AnyMethod], ...] = get_args(AnyMethod)
