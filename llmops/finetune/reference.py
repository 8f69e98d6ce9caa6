"""What the untrained base thinks of every trained token: computed once, kept beside the tokens, never changed.

REFERENCE/train.safetensors        log_probs  float32  (trained tokens of the split,)  in the store's order
REFERENCE/validation.safetensors   likewise
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmops.errors import EnvironmentFault
from llmops.finetune.tensor_files import system_errors
from llmops.finetune.tokens import TokenStore

_NAME = "log_probs"


@dataclass(frozen=True)
class Reference:
    """Log-probabilities, in nats, of the labels of a store's sequences.

    Attributes:
        log_probs: `(labels,)` of all sequences, one behind another.
        borders: `(sequences + 1,)` where those of each begin.
    """

    log_probs: NDArray[np.float32]
    borders: NDArray[np.int64]

    @classmethod
    def empty(cls, store: TokenStore) -> Self:
        """Zeros for every label of `store`."""
        borders = np.concatenate([[0], np.cumsum(store.trained_counts)])
        return cls(np.zeros(int(borders[-1]), dtype=np.float32), borders)

    def of(self, sequences: Sequence[int]) -> NDArray[np.float32]:
        """Those of some sequences, in their order."""
        parts = [self.log_probs[self.borders[one] : self.borders[one + 1]] for one in sequences]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def put(self, sequences: Sequence[int], log_probs: NDArray[np.float32]) -> None:
        """Fill in those of some sequences, given in their order."""
        begin = 0
        for one in sequences:
            size = int(self.borders[one + 1] - self.borders[one])
            self.log_probs[self.borders[one] : self.borders[one + 1]] = log_probs[begin : begin + size]
            begin += size

    def save(self, path: Path) -> None:
        """Write them; the file appears whole or not at all.

        Raises:
            EnvironmentFault: the disk is full, or the cache may not be written.
        """
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with system_errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file({_NAME: self.log_probs}, fresh)
                with fresh.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(fresh, path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise EnvironmentFault(
                f"what the base thinks of the rows could not be kept in {path.parent}: {error.strerror}",
                fix="free disk space, or choose another disk with LLMOPS_HOME",
            ) from error


def read_reference(path: Path, store: TokenStore) -> Reference | None:
    """What was kept at `path` for `store`; None where nothing was, or it is not whole."""
    fresh = Reference.empty(store)
    try:
        kept = load_file(path)[_NAME]
    except (OSError, SafetensorError, KeyError):
        return None
    return Reference(kept, fresh.borders) if kept.shape == fresh.log_probs.shape else None
