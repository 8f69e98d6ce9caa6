"""What the base thinks of every label is kept in one file, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmops.errors import EnvironmentFault
from llmops.finetune.reference import Reference, read_reference
from llmops.finetune.token_file import Writer
from llmops.finetune.tokens import TokenStore


def store_of(folder: Path, *labels: int) -> TokenStore:
    with Writer(folder / "t") as out:
        for count in labels:
            out.add(np.zeros(count + 2, dtype=np.int32), np.arange(count + 2) > 1, 1.0)
        out.finish()
    return TokenStore.open(folder / "t")


def test_what_is_put_in_any_order_comes_back_by_sequence(tmp_path: Path) -> None:
    store = store_of(tmp_path, 2, 3, 1)
    reference = Reference.empty(store)
    reference.put([2, 0], np.array([6, 1, 2], dtype=np.float32))
    reference.put([1], np.array([3, 4, 5], dtype=np.float32))
    reference.save(tmp_path / "kept" / "train.safetensors")
    back = read_reference(tmp_path / "kept" / "train.safetensors", store)
    assert back is not None
    assert back.of([1, 2]).tolist() == [3, 4, 5, 6]
    assert back.of([0]).tolist() == [1, 2]
    assert back.of([]).shape == (0,)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["train.safetensors"]


def test_what_is_not_there_torn_or_of_other_tokens_is_none(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    store = store_of(tmp_path, 2, 3)
    assert read_reference(path, store) is None
    Reference.empty(store).save(path)
    (tmp_path / "other").mkdir()
    assert read_reference(path, store_of(tmp_path / "other", 2, 2)) is None
    path.write_bytes(path.read_bytes()[:-3])
    assert read_reference(path, store) is None


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="could not be kept"):
        Reference.empty(store_of(tmp_path, 2)).save(tmp_path / "file" / "train.safetensors")
