"""The teacher whose distributions a student learns: checked, loaded and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmops.data.chat import tokenizer_digest
from llmops.errors import EnvironmentFault, InputError
from llmops.finetune.model import DTYPES, LossModel, Placement
from llmops.finetune.recipe import Recipe
from llmops.records import ModelSource


@dataclass(frozen=True, slots=True)
class TeacherModel:
    """A teacher on this machine's disk.

    Attributes:
        base: what an adapter stands on; None for a whole model.
    """

    source: ModelSource
    base: ModelSource | None

    @property
    def whole(self) -> Path:
        """The folder that holds its `config.json`."""
        return self.base.folder if self.base is not None else self.source.folder


def check_tokenizer(teacher: TeacherModel, student: ModelSource) -> None:
    """Raises InputError where the two models do not read the same tokens, so that no position of one is the other's."""
    from transformers import AutoTokenizer

    def digest(folder: Path) -> str:
        return tokenizer_digest(AutoTokenizer.from_pretrained(folder, local_files_only=True))

    own = (teacher.source.folder / "tokenizer_config.json").is_file()
    if digest(teacher.source.folder if own else teacher.whole) != digest(student.folder):
        raise InputError(
            f"the teacher {teacher.source.reference} and the base {student.reference} have different tokenizers, "
            "so their distributions are over different tokens",
            fix="choose a teacher of the same family, or leave method.logits out and set method.answers: {}",
        )


def load_teacher(teacher: TeacherModel, recipe: Recipe, placement: Placement) -> LossModel:
    """The teacher in the precision of the arithmetic, frozen, in evaluation mode; draws no random number.

    Raises:
        EnvironmentFault: its files cannot be loaded.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the caller shows progress in its own way
    with torch.random.fork_rng():
        try:
            inner: Any = AutoModelForCausalLM.from_pretrained(
                teacher.whole,
                dtype=DTYPES[recipe.precision],
                attn_implementation=placement.attention,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
            if teacher.base is not None:
                from peft import PeftModel

                inner = PeftModel.from_pretrained(inner, str(teacher.source.folder))
        except (OSError, ValueError, RuntimeError) as error:
            raise EnvironmentFault(
                f"the teacher in {teacher.source.folder} cannot be loaded: {str(error).splitlines()[0]}",
                fix="check that the folder is complete: config.json, tokenizer.json and safetensors of one model",
            ) from error
    inner.requires_grad_(False)
    return LossModel(inner, chunk=recipe.kernels.loss_chunk).to(placement.device).eval()
