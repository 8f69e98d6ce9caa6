"""Answers through transformers: batches of similar length, decoding exactly as the suite states it."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault
from llmops.eval.cache import AnswerCache, answer_new, prompt_digest
from llmops.eval.engines.engine import Answer, Finish, Generated
from llmops.eval.items import Item
from llmops.eval.loading import (
    Precision,
    asked_ids,
    check_room,
    checked_template,
    end_tokens,
    kind_of,
    load,
    load_tokenizer,
    precision_for,
    rows_for,
)
from llmops.eval.suite import Generation
from llmops.events import Listener, Silent


def generate(
    folder: Path,
    items: Sequence[Item],
    generation: Generation,
    *,
    base: Path | None = None,
    batch: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    cache: AnswerCache | None = None,
    listener: Listener | None = None,
) -> Generated:
    """Answer every item with the model in `folder`.

    Args:
        folder: a whole model, or an adapter; an adapter is applied to its base, not merged into it.
        base: folder of an adapter's base; None takes the one its configuration names.
        batch: rows at once; None takes as many as memory and the device make sense of.
        device: a torch device; None takes the first GPU, or the CPU.
        precision: of weights and arithmetic; None takes bf16 where the hardware has it.
        cache: of the model in `folder`; what it has is not asked again, what is answered it keeps batch by batch.

    Raises:
        InputError: a prompt leaves no room for an answer in the model's context.
        EnvironmentFault: the model's files, or its base, cannot be loaded here.
    """
    import torch
    import transformers

    listener = listener or Silent()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision is None:
        precision, reason = precision_for(device)
        listener.say(f"answers in {precision}: {reason}")
    tokenizer = load_tokenizer(folder, base=base)
    engine = {
        "name": "transformers",
        "version": transformers.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if kind_of(device) == "cuda" else "cpu",
        "threads": str(torch.get_num_threads()),
        "precision": precision,
        "batch": "auto" if batch is None else str(batch),
        "template": checked_template(folder, tokenizer),
    }
    prompts = {
        item.id: prompt_digest(item, asked_ids(tokenizer, item.messages, generation.prompt), generation)
        for item in items
    }

    def ask(rest: Sequence[Item], keep: Callable[[Sequence[Answer]], None]) -> float:
        started = time.monotonic()
        model, tokenizer = load(folder, base=base, device=device, precision=precision)
        if (loading := time.monotonic() - started) >= 1.0:
            listener.say(f"model loaded in {loading:.1f} s")
        started = time.monotonic()
        answered(model, tokenizer, rest, generation, batch=batch, device=device, on_answers=keep, listener=listener)
        return time.monotonic() - started

    return answer_new(items, generation, engine, prompts=prompts, ask=ask, cache=cache, listener=listener)


def answered(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    generation: Generation,
    *,
    batch: int | None = None,
    device: str = "cpu",
    on_answers: Callable[[Sequence[Answer]], None] = lambda some: None,
    listener: Listener | None = None,
) -> tuple[list[Answer], int]:
    """The answers of a loaded model in the order of the items, and the rows it took at once.

    Where a GPU's memory runs out, half as many rows are taken from there on.

    Args:
        on_answers: hears the answers of each batch as it is done.
    """
    import torch
    import transformers

    listener = listener or Silent()
    prompts = [asked_ids(tokenizer, item.messages, generation.prompt) for item in items]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = [generation.max_tokens if context is None else context - len(prompt) for prompt in prompts]
    check_room(items, prompts, room, context)
    closing = end_tokens(model, tokenizer)
    # One configuration for all of it: what a model brings along (penalties, top-k) is not what the suite states.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(closing, default=0)
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=pad)

    # The longest first, so that memory runs out at once or not at all; neighbours need little padding.
    order = sorted(range(len(items)), key=lambda index: -len(prompts[index]))
    rows = batch or rows_for(model, max(map(len, prompts), default=0) + generation.max_tokens, device)
    done: dict[int, Answer] = {}
    while len(done) < len(order):
        chosen = order[len(done) : len(done) + rows]
        together = _Batch(
            tokenizer,
            [items[index].id for index in chosen],
            [prompts[index] for index in chosen],
            [min(generation.max_tokens, room[index]) for index in chosen],
            closing,
            generation,
        )
        try:
            made = together.run(model, pad)
        except torch.OutOfMemoryError as error:
            if rows == 1:
                raise EnvironmentFault(
                    f"the memory of {device} is too small for one prompt of {len(prompts[chosen[0]])} tokens",
                    fix="lower generation.max_tokens, or use a GPU with more memory",
                ) from error
            rows = max(1, min(rows, len(chosen)) // 2)
            listener.say(f"out of memory on {device}: going on with {rows} rows at once")
            torch.cuda.empty_cache()
            continue
        on_answers(made)
        done.update(zip(chosen, made, strict=True))
        listener.advance("answers", len(done), len(items))
    return [done[index] for index in range(len(items))], rows


class _Batch:
    """One batch: notices where each of its rows ends, and when; a row that ended is never looked at again."""

    def __init__(
        self,
        tokenizer: Any,
        ids: Sequence[str],
        prompts: Sequence[Sequence[int]],
        allowed: Sequence[int],
        closing: set[int],
        generation: Generation,
    ) -> None:
        self._tokenizer = tokenizer
        self._ids = ids
        self._prompts = prompts
        self._longest = max(map(len, prompts))
        self._allowed = allowed
        self._closing = closing
        self._generation = generation
        self._started = time.monotonic()
        self._open = set(range(len(ids)))
        self._ended: dict[int, tuple[int, Finish, float]] = {}

    def run(self, model: Any, pad: int) -> list[Answer]:
        """The answers to the batch's prompts, in order."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        gaps = [self._longest - len(prompt) for prompt in self._prompts]
        tokens = [[pad] * gap + list(prompt) for gap, prompt in zip(gaps, self._prompts, strict=True)]
        mask = [[0] * gap + [1] * len(prompt) for gap, prompt in zip(gaps, self._prompts, strict=True)]
        draw = [_Drawn(self._ids, max(self._allowed), self._longest, self._generation)]
        with torch.inference_mode():
            made = model.generate(
                input_ids=torch.tensor(tokens, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max(self._allowed),
                logits_processor=LogitsProcessorList(draw if self._generation.temperature else []),
                stopping_criteria=StoppingCriteriaList([self]),
            )
        written = made[:, self._longest :].tolist()
        return [self._answer(row, written[row]) for row in range(len(self._ids))]

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        made = input_ids.shape[1] - self._longest
        last = input_ids[:, -1].tolist()
        for row in sorted(self._open):
            if last[row] in self._closing or (
                self._generation.stop and self._stopped(input_ids[row, self._longest :].tolist())
            ):
                self._end(row, made, "stop")
            elif made >= self._allowed[row]:
                self._end(row, made, "length")
        return torch.tensor([row not in self._open for row in range(len(last))], device=input_ids.device)

    def _end(self, row: int, made: int, finish: Finish) -> None:
        self._open.remove(row)
        self._ended[row] = (made, finish, time.monotonic() - self._started)

    def _stopped(self, tokens: Sequence[int]) -> bool:
        text = self._text(tokens)
        return any(stop in text for stop in self._generation.stop)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _answer(self, row: int, written: Sequence[int]) -> Answer:
        made, finish, seconds = self._ended[row]
        # The token that ended it need not be a special one to be no part of the text.
        text = self._text(written[: made - (written[made - 1] in self._closing)])
        for stop in self._generation.stop:
            text = text.partition(stop)[0]
        return Answer(self._ids[row], text, made, finish, seconds)


class _Drawn:
    """Draws each row's next token by the inverse of its cumulative distribution, from that item's own numbers.

    So an item's sample depends on the seed and the item, not on which rows it shared a batch with.
    """

    def __init__(self, ids: Sequence[str], steps: int, prompt: int, generation: Generation) -> None:
        self._prompt = prompt
        self._temperature = generation.temperature
        self._numbers: list[list[float]] = []
        for item in ids:
            seed = hashlib.sha256(f"{generation.seed}:{item}".encode()).digest()
            source = random.Random(seed)
            self._numbers.append([source.random() for _ in range(steps)])

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores `(rows, vocabulary)` with the drawn token as the only possible one."""
        import torch

        step = input_ids.shape[1] - self._prompt
        chance = torch.tensor([[row[step]] for row in self._numbers], dtype=torch.float64, device=scores.device)
        summed = torch.softmax(scores.double() / self._temperature, dim=-1).cumsum(-1)
        drawn = torch.searchsorted(summed, chance * summed[:, -1:], right=True).clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
