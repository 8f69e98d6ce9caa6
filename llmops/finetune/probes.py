"""Fixed inputs that two models are compared on, and how far apart their next-token distributions are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROWS, LENGTH = 8, 32
_TEXT = (
    "The quick brown fox jumps over the lazy dog near the river bank at 7:45 on a cold Monday in March. "
    "Question: what is the capital of France, and how many people live there? Answer: Paris, about 2.1 million. "
    "def area(width, height): return width * height  # both in metres\n"
    'name[The Eagle], food[French], near[Burger King], {"price": "£20-25", "rating": 3.5}\n'
    "Il pleut depuis hier soir; das Wetter bleibt bis Freitag schlecht. Please summarise the text above in one line."
)


def probe_ids(vocabulary: int, tokenizer: Path) -> Tensor:
    """Token ids `(ROWS, LENGTH)`, the same for the same vocabulary and tokenizer, all below `vocabulary`.

    Three rows of text where `tokenizer` holds a `tokenizer.json`, one row of the last ids of the vocabulary,
    where added tokens are, and ids drawn evenly from all of it for the rest.
    """
    draw = random.Random(0)
    rows = []
    text, added = _text_ids(tokenizer)
    text = [token for token in text if token < vocabulary]
    if text:
        stream = text * (3 * LENGTH // len(text) + 1)
        rows += [stream[start : start + LENGTH] for start in range(0, 3 * LENGTH, LENGTH)]
    last = [token for token in added if token < vocabulary] or list(range(max(0, vocabulary - LENGTH), vocabulary))
    rows.append([last[-1 - place % len(last)] for place in range(LENGTH)])
    rows += [[draw.randrange(vocabulary) for _ in range(LENGTH)] for _ in range(ROWS - len(rows))]
    return torch.tensor(rows)


def _text_ids(folder: Path) -> tuple[list[int], list[int]]:
    """Ids of the fixed text, and ids of added tokens in rising order; both empty without a `tokenizer.json`."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return [], []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return tokenizer.encode(_TEXT).ids, sorted(tokenizer.get_added_tokens_decoder())


def largest_id(folder: Path) -> int | None:
    """The largest id the tokenizer in `folder` can give; None without a `tokenizer.json`."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    return max(Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).values(), default=None)


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    """Logits `(rows · length, vocabulary)` of every next token, in one pass so that weights are widened once."""
    model.eval()
    return model(input_ids=ids, use_cache=False).logits.flatten(0, 1)


@contextmanager
def float32_arithmetic(model: nn.Module, *, rounded_to: torch.dtype | None = None) -> Iterator[None]:
    """Forward passes inside compute in 32 bits, widening one module's weights at a time; the model keeps its own.

    What is left to differ between two models is then their weights, not the rounding of 16-bit activations.

    Args:
        rounded_to: round the weights to this dtype first, as a file in that dtype would hold them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    held: list[list[tuple[nn.Parameter, Tensor]]] = []

    def widen(module: nn.Module, _: Any) -> None:
        # A layer of an adapter reads its parts' weights itself, without calling them.
        deep = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        held.append([(one, one.data) for one in module.parameters(recurse=deep) if one.is_floating_point()])
        for parameter, value in held[-1]:
            parameter.data = (value.to(rounded_to) if rounded_to else value).float()

    def restore(*_: Any) -> None:
        for parameter, value in held.pop():
            parameter.data = value

    inside: set[int] = set()
    handles = []
    for module in model.modules():
        if id(module) in inside:
            continue
        deep = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        if deep:
            inside.update(id(part) for part in module.modules())
        if deep or next(module.parameters(recurse=False), None) is not None:
            handles += [
                module.register_forward_pre_hook(widen),
                module.register_forward_hook(restore, always_call=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        while held:
            restore()


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a model's next-token distributions are from a reference's.

    Attributes:
        kl: mean over positions of KL(reference ‖ other), in nats.
        agreement: share of positions where both find the same token likeliest.
        widest_gap: where they do not, the most by which the reference prefers its own choice, in nats; 0 if none.
    """

    kl: float
    agreement: float
    widest_gap: float


def distance(reference: Tensor, other: Tensor) -> Distance:
    """Compare logits `(positions, vocabulary)` position by position, in 64 bits; NaN in one gives NaN."""
    total, agreeing, widest = 0.0, 0, 0.0
    for ours, theirs in zip(reference, other, strict=True):
        left, right = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
        total += float((left.exp() * (left - right)).sum())
        best, choice = int(left.argmax()), int(right.argmax())
        if best == choice:
            agreeing += 1
        else:
            widest = max(widest, float(left[best] - left[choice]))
    positions = len(reference)
    return Distance(kl=max(total / positions, 0.0), agreement=agreeing / positions, widest_gap=widest)
