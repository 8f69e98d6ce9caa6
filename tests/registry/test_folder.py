"""A model folder holds a config and whole safetensors, nothing pickled; unchanged bytes are hashed once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.files import folder_digest
from llmops.registry.folder import cached_digest, check_model_folder
from tests.registry.artifacts import safetensors, write_model


def fault(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        check_model_folder(folder, named="it")
    return caught.value


@pytest.mark.parametrize("config", ["config.json", "adapter_config.json"])
def test_a_whole_model_and_an_adapter_pass(tmp_path: Path, config: str) -> None:
    check_model_folder(write_model(tmp_path / "m", config=config), named="it")


def test_a_folder_without_config_names_the_folder_inside_that_has_one(tmp_path: Path) -> None:
    write_model(tmp_path / "run" / "artifact")
    error = fault(tmp_path / "run")
    assert "neither config.json nor adapter_config.json" in error.problem
    assert "'artifact'" in error.problem


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    error = fault(folder)
    assert name in error.problem
    assert "pickle" in error.problem
    assert "save_pretrained" in error.fix


def test_a_pickle_beside_safetensors_does_no_harm(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "training_args.bin").write_bytes(b"x")
    check_model_folder(folder, named="it")


def test_no_weights_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "no weights" in fault(tmp_path).problem


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 1 of 2 files of weights, first model-00002.safetensors" in fault(folder).problem


def test_a_pointer_of_git_lfs_is_recognised(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    assert "git lfs pull" in fault(folder).problem


@given(cut=st.integers(min_value=0, max_value=10_000))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = safetensors(1.0)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(whole[: cut % len(whole)])
    assert "model.safetensors" in fault(folder).problem


@given(content=st.binary(max_size=200))
def test_any_other_bytes_are_refused_and_never_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors" in fault(folder).problem


def settle(folder: Path) -> None:
    """Make every file look older than the two seconds in which times are not trusted."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    assert cached_digest(folder, tmp_path / "cache") == folder_digest(folder)


def test_unchanged_bytes_are_not_read_again(tmp_path: Path) -> None:
    folder, cache = write_model(tmp_path / "m"), tmp_path / "cache"
    settle(folder)
    first = cached_digest(folder, cache)
    (known,) = (cache / "digests").iterdir()
    assert known.read_text().strip() == first
    known.write_text("remembered\n")
    assert cached_digest(folder, cache) == "remembered"


@pytest.mark.parametrize("change", ["bytes", "another file", "time"])
def test_a_change_is_noticed(tmp_path: Path, change: str) -> None:
    folder, cache = write_model(tmp_path / "m"), tmp_path / "cache"
    settle(folder)
    cached_digest(folder, cache)
    (known,) = (cache / "digests").iterdir()
    known.write_text("stale\n")
    match change:
        case "bytes":
            write_model(folder, 2.0)
        case "another file":
            (folder / "tokenizer.json").write_text("{}")
        case "time":
            os.utime(folder / "config.json", ns=(10**18, 10**18 + 1))
    assert cached_digest(folder, cache) == folder_digest(folder)


def test_fresh_files_are_not_remembered(tmp_path: Path) -> None:
    cached_digest(write_model(tmp_path / "m"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
