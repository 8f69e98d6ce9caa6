"""How likely texts are to a model as answers, whatever it would answer itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.errors import InputError
from llmops.eval.engines.reading import Passage
from llmops.eval.engines.transformers_reading import read
from llmops.eval.loading import Precision, asked_ids, load_tokenizer, precision_for, whole_folder
from llmops.events import Listener

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of one text: its log-likelihood in nats, and the tokens it was read in."""

    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Tells them of the model in `folder`, an adapter on its `base`."""

    folder: Path
    base: Path | None = None
    precision: Precision | None = None

    def __call__(
        self, asked: Sequence[tuple[Messages, str]], *, prompt: Literal["chat", "plain"], listener: Listener
    ) -> list[Likelihood]:
        """The likelihood of each text as what follows its conversation; what would end the answer is no part of it.

        Args:
            prompt: how the conversation is put; after a plain one the text follows a space.

        Raises:
            InputError: a text has no tokens, or does not fit into the model's context with what comes before.
            EnvironmentFault: the model cannot be loaded here.
        """
        from transformers import AutoConfig

        tokenizer = load_tokenizer(self.folder, base=self.base)
        config = AutoConfig.from_pretrained(str(whole_folder(self.folder, self.base)), local_files_only=True)
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        passages = []
        for messages, text in asked:
            before = asked_ids(tokenizer, messages, prompt)
            spaced = f" {text}" if prompt == "plain" else text
            after = tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"]
            if not after or (context is not None and len(before) + len(after) > context):
                why = "has no tokens" if not after else f"does not fit into the model's context of {context} tokens"
                raise InputError(f"the text {text[:40]!r} {why}", fix="leave its item out of the suite")
            passages.append(Passage((*before, *after), len(before)))
        readings = read(self.folder, passages, base=self.base, precision=self.precision, listener=listener)
        return [Likelihood(float(one.logprobs.sum()), len(one.logprobs)) for one in readings]

    def engine(self) -> dict[str, str]:
        """What a likelihood may depend on beside the model."""
        import torch
        import transformers

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return {
            "name": "transformers",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "precision": self.precision or precision_for(device)[0],
            "reads": "likelihoods",
        }
