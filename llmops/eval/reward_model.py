"""A reward model on this machine's disk: conversations become numbers, batch by batch, each kept as it is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llmops.data.chat import encode_rendered, render
from llmops.errors import EnvironmentFault, InputError
from llmops.eval.cache import AnswerCache, answer_new
from llmops.eval.engines.engine import Answer
from llmops.eval.items import Item
from llmops.eval.loading import (
    Precision,
    base_of,
    checked_template,
    kind_of,
    load_tokenizer,
    precision_for,
    whole_folder,
)
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of
from llmops.records import ModelSource
from llmops.registry.folder import is_reward_model
from llmops.registry.reference import resolve
from llmops.workspace import Workspace

Conversation = Sequence[Mapping[str, Any]]
"""Turns of which the last is the answer that is scored."""
_TOKENS_AT_ONCE = {"cpu": 1 << 13, "cuda": 1 << 16}


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier of one label, whole or an adapter on `base`.

    Attributes:
        accuracy: share of held-out pairs that it ordered right when it was trained, by its manifest; None without one.
    """

    source: ModelSource
    base: ModelSource | None
    accuracy: float | None

    @classmethod
    def named(cls, reference: str, workspace: Workspace) -> RewardModel:
        """The reward model that a reference names; no weights are loaded.

        Raises:
            InputError: there is no such model, or it is none that scores.
            EnvironmentFault: it or its base cannot be had here.
        """
        source = resolve(reference, workspace=workspace)
        if not is_reward_model(source.folder):
            raise InputError(
                f"{reference} is no reward model: it writes answers and scores none",
                fix="train one with `method: {kind: reward}`, or ask this one as a `judge` through its server",
            )
        beneath = base_of(source.folder)
        base = None if beneath is None else resolve(beneath, workspace=workspace)
        return cls(source, base, _held_out_accuracy(source.folder))

    @property
    def signature(self) -> str:
        """How its numbers were made; those of another model must not be compared with them."""
        base = "" if self.base is None else f"|base:{self.base.digest[:12]}"
        return f"reward-model:{self.source.digest[:12]}{base}|precision:{self._precision}|unit:nats"

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer; raises EnvironmentFault where its template is not the one it was trained with."""
        tokenizer = load_tokenizer(self.source.folder, base=self._base_folder)
        checked_template(self.source.folder, tokenizer)
        return tokenizer

    def rewards(self, conversations: Sequence[Conversation], *, listener: Listener, cache: Path | None) -> list[float]:
        """The reward of each conversation's last turn, in nats, in their order.

        Of rewards only differences say something: σ(a − b) is how often people would prefer the answer with a.

        Args:
            cache: folder in which rewards are kept; what was asked before is not computed again. None keeps nothing.

        Raises:
            InputError: a conversation is longer than the model's context, or the model has several labels.
            EnvironmentFault: it cannot be loaded, or one conversation is too long for the GPU's memory.
        """
        ids = [self._ids(turns) for turns in conversations]
        self._check_room(ids)
        names = [digest_of(list(one)) for one in ids]
        base = None if self.base is None else self.base.digest
        distinct = dict(zip(names, zip(ids, conversations, strict=True), strict=True))
        items = [Item(name, tuple(turns), "", ("",), {}) for name, (_, turns) in distinct.items()]
        made = answer_new(
            items,
            Generation(),
            {"name": "reward model", **self._computed_by},
            prompts={name: name for name in distinct},
            ask=lambda rest, keep: self._ask({one.id: distinct[one.id][0] for one in rest}, keep, listener),
            cache=None if cache is None else AnswerCache(cache, self.source.digest, base),
            listener=listener,
        )
        # repr gives back the very number.
        known = {answer.item: float(answer.text) for answer in made.answers}
        return [known[name] for name in names]

    def engine(self) -> dict[str, str]:
        """What a reward may depend on beside the model."""
        return {"name": "transformers", **self._computed_by, "reads": "rewards"}

    @property
    def _computed_by(self) -> dict[str, str]:
        import torch
        import transformers

        return {
            "version": transformers.__version__,
            "torch": torch.__version__,
            "device": self._device,
            "threads": str(torch.get_num_threads()),
            "precision": self._precision,
        }

    @property
    def _base_folder(self) -> Path | None:
        return self.base.folder if self.base is not None else None

    @cached_property
    def _device(self) -> str:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @cached_property
    def _precision(self) -> Precision:
        """On a CPU 32 bits: a reward is one pass, and small differences count."""
        return precision_for(self._device)[0] if self._device == "cuda" else "fp32"

    @cached_property
    def _loaded(self) -> Any:
        return _load(self.source.folder, self._base_folder, self._device, self._precision)

    @cached_property
    def _pad_id(self) -> int | None:
        """The token whose runs at the end are passed over, as where it was trained: the file's, else the tokenizer's.

        An adapter was trained with the tokenizer's, whatever its base's file says.
        """
        own = None
        if self.base is None:
            config = json.loads((self.source.folder / "config.json").read_text(encoding="utf-8"))
            own = config.get("pad_token_id")
        for one in (own, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if one is not None:
                return int(one)
        return None

    def _ids(self, turns: Conversation) -> list[int]:
        text = render(self.tokenizer, [dict(turn) for turn in turns], generation_prompt=False)
        return encode_rendered(self.tokenizer, text)

    def _check_room(self, ids: Sequence[Sequence[int]]) -> None:
        config = json.loads((whole_folder(self.source.folder, self._base_folder) / "config.json").read_text())
        context = config.get("max_position_embeddings")
        longest = max(map(len, ids), default=0)
        if context is not None and longest > context:
            many = sum(len(one) > context for one in ids)
            raise InputError(
                f"{many} of {len(ids)} answers with their prompts are longer than the {context} tokens that the reward "
                f"model {self.source.reference} looks back on; the longest has {longest}",
                fix="lower the suite's max_tokens, or take a reward model with a longer context",
            )

    def _ask(
        self, rest: Mapping[str, list[int]], keep: Callable[[Sequence[Answer]], None], listener: Listener
    ) -> float:
        import torch

        # The longest first, so that memory runs out at once or not at all; neighbours need little padding.
        order = sorted(rest, key=lambda name: -len(rest[name]))
        done = 0
        while done < len(order):
            rows = max(1, _TOKENS_AT_ONCE[kind_of(self._device)] // len(rest[order[done]]))
            chosen = order[done : done + rows]
            try:
                rewards = self._pass([rest[name] for name in chosen])
            except torch.OutOfMemoryError as error:
                raise EnvironmentFault(
                    f"the memory of {self._device} is too small for {len(rest[chosen[0]])} tokens of the reward model",
                    fix="leave the longest items out, or use a GPU with more memory",
                ) from error
            keep([Answer(name, repr(one), None, None, None) for name, one in zip(chosen, rewards, strict=True)])
            done += len(chosen)
            listener.advance("answers scored by the reward model", done, len(order))
        return 0.0

    def _pass(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        import torch

        model, longest = self._loaded, max(map(len, sequences))
        ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in sequences], device=model.device)
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in sequences], device=model.device)
        ends = torch.tensor([_end(one, self._pad_id) for one in sequences], device=model.device)
        with torch.inference_mode():
            inner = model.get_base_model() if hasattr(model, "get_base_model") else model
            backbone = getattr(inner, inner.base_model_prefix)
            hidden = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(sequences), device=model.device), ends]
            # In 32 bits whatever the model is held in: rewards of 16 bits are too coarse to be compared.
            found = (last.float() @ inner.score.weight.float().T)[:, 0].tolist()
        if not all(map(math.isfinite, found)):
            raise EnvironmentFault(
                f"the reward model {self.source.reference} gives a reward that is no number",
                fix="train it again with a lower learning rate",
            )
        return [float(one) for one in found]


@dataclass(frozen=True, slots=True)
class Rewards:
    """Tells how good a reward model finds texts as answers.

    Attributes:
        cache: folder in which rewards are kept; None keeps nothing.
    """

    model: RewardModel
    cache: Path | None = None

    def __call__(
        self, asked: Sequence[tuple[Conversation, str]], *, prompt: Literal["chat", "plain"], listener: Listener
    ) -> list[float]:
        """The reward of each text as what the assistant answers in its conversation, in nats.

        Raises:
            InputError: a text does not fit into the model's context, or the suite puts its prompts plainly.
            EnvironmentFault: as `RewardModel.rewards`.
        """
        if prompt == "plain":
            raise InputError(
                "a reward model reads conversations, and the suite gives it the bare text to go on with",
                fix="leave generation.prompt out of the suite",
            )
        turns = [(*messages, {"role": "assistant", "content": text}) for messages, text in asked]
        return self.model.rewards(turns, listener=listener, cache=self.cache)

    def engine(self) -> dict[str, str]:
        return self.model.engine()


def _end(ids: Sequence[int], pad_id: int | None) -> int:
    """Where a sequence is scored: at the last token that does not pad, as transformers pools."""
    return next((place for place in range(len(ids) - 1, 0, -1) if ids[place] != pad_id), 0)


def _load(folder: Path, base: Path | None, device: str, precision: Precision) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    # Below an adapter the base's own score is new, and replaced at once.
    logging.set_verbosity_error()
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            str(whole_folder(folder, base)),
            dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[precision],
            device_map="auto" if device == "cuda" else {"": device},
            use_safetensors=True,
            local_files_only=True,
            **({} if base is None else {"num_labels": 1}),
        )
        if base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise EnvironmentFault(
            f"the reward model in {folder} cannot be loaded: {str(error).splitlines()[0]}",
            fix="check that the folder is complete: config.json, tokenizer.json and safetensors of one model",
        ) from error
    finally:
        logging.set_verbosity(before)
    if model.config.num_labels != 1 or not hasattr(model, "score"):
        raise InputError(
            f"the model in {folder} gives {model.config.num_labels} numbers through no single `score`",
            fix="take a reward model: a sequence classifier with one label, as `method: {kind: reward}` leaves it",
        )
    return model.eval()


def _held_out_accuracy(folder: Path) -> float | None:
    try:
        written = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return float(written["validation_measures"]["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
