"""Encoded rows are kept in a safetensors file that appears whole or not at all, under the digest of its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmops.errors import InputError
from llmops.finetune.token_file import Writer, read_arrays


def write(path: Path, rows: list[list[int]], *, weight: float = 1.0, finish: bool = True) -> Path:
    with Writer(path) as out:
        for ids in rows:
            out.add(np.asarray(ids, dtype=np.int32), np.asarray([one % 2 == 0 for one in ids]), weight)
        if finish:
            out.finish()
    return path


def test_others_can_read_it_as_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = load_file(write(tmp_path / "train.safetensors", [[5, 6, 7], [8, 9]], weight=0.5))
    assert arrays["ids"].tolist() == [5, 6, 7, 8, 9]
    assert arrays["ids"].dtype == np.int32
    assert arrays["trained"].tolist() == [0, 1, 0, 1, 0]
    assert arrays["trained"].dtype == np.uint8
    assert arrays["offsets"].tolist() == [0, 3, 5]
    assert arrays["offsets"].dtype == np.int64
    assert arrays["weights"].tolist() == [0.5, 0.5]


def test_arrays_are_mapped_and_not_read(tmp_path: Path) -> None:
    _, arrays = read_arrays(write(tmp_path / "train.safetensors", [[5, 6, 7]]))
    assert all(isinstance(one, np.memmap) for one in arrays.values())


def test_the_digest_is_that_of_the_arrays(tmp_path: Path) -> None:
    def digest(name: str, rows: list[list[int]], weight: float = 1.0) -> str:
        return read_arrays(write(tmp_path / name, rows, weight=weight))[0]

    first = digest("a", [[1, 2], [3]])
    assert digest("b", [[1, 2], [3]]) == first
    different = [digest("c", [[1], [2, 3]]), digest("d", [[1, 2], [4]]), digest("e", [[1, 2], [3]], 2.0)]
    assert len({first, *different}) == 4


def test_leaving_without_finishing_leaves_what_was_there(tmp_path: Path) -> None:
    path = write(tmp_path / "train.safetensors", [[1, 2]])
    before = path.read_bytes()
    write(path, [[3, 4, 5]], finish=False)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"], ids=repr)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no encoded rows"):
        read_arrays(path)


def test_a_torn_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.safetensors", [list(range(100))])
    path.write_bytes(path.read_bytes()[:-1])
    for torn in (path, tmp_path / "none"):
        with pytest.raises(InputError, match="holds no encoded rows"):
            read_arrays(torn)
